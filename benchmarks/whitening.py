"""Is a tuned model better for search if its vectors are whitened, or reduced to their main directions?

The transform is fitted on the texts that are searched, without labels: their mean is taken away, and the directions of
their covariance are scaled by its eigenvalues to the power of minus half of ``power``, or only the first are kept.
Cranfield is searched by its queries (nDCG@10 x 100), and docstrings of scikit-learn by their first sentences (mean
reciprocal rank x 100), by the embedded model as it is and tuned by `search` on the abstracts of Cranfield.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sklearn.preprocessing import normalize

from benchmarks.common import add_data, documentation, keep, parser
from benchmarks.markdown import source, table
from benchmarks.search_tuning import cranfield, load, ndcg, tuned
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.evidence.ranking import reciprocal_ranks

LIBRARY = "sklearn"
# How far eigenvalues are evened out, and how many directions are kept.
TRANSFORMS = {
    "as it is": None,
    "centred": (0.0, None),
    "half whitened": (0.5, None),
    "whitened": (1.0, None),
    "whitened, 128 directions": (1.0, 128),
    "PCA, 128 directions": (0.0, 128),
}


def fitted(texts: np.ndarray, power: float, kept: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The mean of vectors, shape (dim,), and what to multiply the rest with, shape (dim, kept)."""
    mean = texts.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov((texts - mean).T))
    values, directions = values[::-1][:kept], directions[:, ::-1][:, :kept]
    # A share of the mean value, so that noise in the last directions does not drown the rest.
    return mean, directions * (values + 0.05 * values.mean()) ** (-power / 2)


def scores(model: SentenceTransformer, data: Path) -> list[dict[str, object]]:
    _, texts, _, queries, right = cranfield(data)
    asked, answers = map(list, zip(*documentation(LIBRARY)[1], strict=True))
    groups = [queries, texts, asked, answers]
    cuts = np.cumsum([len(group) for group in groups])[:-1]
    vectors = np.split(embed(model, [text for group in groups for text in group], normalize_embeddings=True), cuts)
    rows = []
    for name, how in TRANSFORMS.items():
        found = []
        for query, text in (vectors[:2], vectors[2:]):
            if how is not None:
                mean, matrix = fitted(text, *how)
                query, text = (query - mean) @ matrix, (text - mean) @ matrix
            found.append((normalize(query), normalize(text)))
        (query, text), library = found
        rank = round(100 * float(reciprocal_ranks(*library).mean()), 2)
        rows.append({"vectors": name, "Cranfield nDCG@10": ndcg(query @ text.T, right), f"{LIBRARY}, MRR x 100": rank})
    return rows


def measure(data: Path, seed: int) -> list[dict[str, object]]:
    model = load("embedded")
    rows = [{"model": "untuned", **row} for row in scores(model, data)]
    titles, texts, *_ = cranfield(data)
    tuned(model, [pair for pair in zip(titles, texts, strict=True) if pair[1].strip()], {}, seed, 3)
    return rows + [{"model": "`search`", **row} for row in scores(model, data)]


def section(kept: dict) -> str:
    return (
        "## Whitening\n\nVectors after a transform that is fitted on the texts that are searched. The tuned model is "
        f"that of the recipe `search` on the abstracts of Cranfield, one seed.\n\n{table(kept['result'])}\n"
        f"{source(kept['environment'], of_the_embedded=True)}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    print(section(keep("whitening", measure(args.data, args.seed), args.output)))


if __name__ == "__main__":
    main()
