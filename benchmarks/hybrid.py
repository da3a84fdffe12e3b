"""What words and meaning find together, and which weight of meaning is the default.

nDCG@10 x 100 of four sets. The weight is chosen on three: the first sentence of a docstring asks for the rest, in the
standard library and in scikit-learn (1,000 of each), and 1,000 questions of QNLI's development set ask for the
sentence that answers them, among 3,000. Leave one out: for each of the three, the weight that is best on the two
others. The default is that of the package's model: what is safe with a weak model gains with a strong one, too.
Cranfield is reported and nothing was chosen by it: 1,400 abstracts, 225 queries, relevance 1 to 4 as one. The tuned
model has the recipe `search` on these abstracts, once. All words are stemmed as English, except where said.

The curves are computed over all documents, the searches through ``SearchIndex``.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from sentence_transformers import SentenceTransformer

from benchmarks.common import (
    MODELS,
    RESULTS,
    add_data,
    add_jobs,
    earlier,
    finish,
    keep,
    model_path,
    parser,
    read_table,
)
from benchmarks.markdown import source, table
from benchmarks.search_tuning import cranfield, ndcg
from sentence_transformers_mirror import SearchIndex, mirror_tune
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.search import fusion, words
from sentence_transformers_mirror.texts.docstrings import read_docstrings

WEIGHTS = [round(0.1 * step, 1) for step in range(11)]
QUERIES, DOCUMENTS = 1_000, 3_000
CHOOSING = ["standard library", "scikit-learn", "QNLI"]
REPORTED = "Cranfield"


class Asked(NamedTuple):
    """Documents, queries, and whether a document answers a query, shape (queries, documents)."""

    documents: list[str]
    queries: list[str]
    right: np.ndarray


def docstrings(folder: Path | None) -> Asked:
    pairs = {one.first: " ".join(one.rest) for one in read_docstrings(folder) if one.rest}
    chosen = random.Random(0).sample(sorted(pairs.items()), QUERIES)
    queries, documents = map(list, zip(*chosen, strict=True))
    # Inherited docstrings are there several times, and all of them are right.
    return Asked(documents, queries, np.array([[one == other for other in documents] for one in documents]))


def qnli(data: Path) -> Asked:
    rows = read_table(data / "retrieval/qnli.dev.tsv.gz")
    answers: dict[str, set[str]] = {}
    for row in rows:
        if row["label"] == "entailment":
            answers.setdefault(row["question"], set()).add(row["sentence"])
    queries = random.Random(0).sample(sorted(answers), QUERIES)
    documents = sorted(set().union(*(answers[query] for query in queries)))
    others = sorted({row["sentence"] for row in rows}.difference(documents))
    documents += random.Random(0).sample(others, DOCUMENTS - len(documents))
    right = np.array([[one in answers[query] for one in documents] for query in queries])
    return Asked(documents, queries, right)


@cache
def asked(name: str, data: Path) -> Asked:
    if name == REPORTED:
        _, documents, _, queries, right = cranfield(data)
        kept = [row for row, text in enumerate(documents) if text.strip()]  # an index takes no blank text
        return Asked([documents[row] for row in kept], queries, right[:, kept])
    if name == "QNLI":
        return qnli(data)
    if name == "scikit-learn":
        import sklearn

        return docstrings(Path(sklearn.__file__).parent)
    return docstrings(None)


@cache
def bm25(name: str, data: Path, language: str | None = "english") -> np.ndarray:
    documents, queries, _ = asked(name, data)
    parts = tuple(words.postings(pa.chunked_array([pa.array(documents, pa.large_string())]), language))
    lexicon = words.Lexicon(parts, None, language)
    rows = np.arange(len(lexicon))
    return np.stack([words.scores(lexicon.weighed(terms), rows) for terms in lexicon.asked(queries)])


def scaled(cosines: np.ndarray, floor: Callable[[np.ndarray], float]) -> np.ndarray:
    low = np.array([floor(line) for line in cosines])[:, None]
    return (cosines - low) / (cosines.max(axis=1, keepdims=True) - low)


FLOORS = {"the mean": np.mean, "the least": np.min, "-1": lambda _: -1.0}


def curves(queries: np.ndarray, documents: np.ndarray, name: str, data: Path) -> dict[str, object]:
    cosines, found, right = queries @ documents.T, bm25(name, data), asked(name, data).right
    by_words = found / np.maximum(found.max(axis=1, keepdims=True), 1e-9)
    ranks = {
        weight: np.stack([fusion.reciprocal_ranks(*both, weight) for both in zip(cosines, found, strict=True)])
        for weight in WEIGHTS
    }
    return {
        "meaning": ndcg(cosines, right),
        "words": ndcg(found, right),
        "words as they are": ndcg(bm25(name, data, None), right),
        "rrf": {weight: ndcg(ranks[weight], right) for weight in WEIGHTS},
        **{
            f"cosine from {label}": {
                weight: ndcg(weight * scaled(cosines, floor) + (1 - weight) * by_words, right) for weight in WEIGHTS
            }
            for label, floor in FLOORS.items()
        },
    }


def searched(model: SentenceTransformer, vectors: np.ndarray, name: str, data: Path) -> dict[str, dict[str, float]]:
    documents, queries, right = asked(name, data)
    index = SearchIndex.from_vectors(vectors, documents, model=model, kind="flat", language="english")
    modes = {
        "meaning": {"mode": "meaning"},
        "words": {"mode": "words"},
        "both": {"mode": "both"},
        "both, rrf": {"mode": "both", "fusion": "rrf"},
    }
    found = {}
    for label, mode in modes.items():
        scores = np.zeros(right.shape)
        first_three = 0
        for number, hits in enumerate(index.search(queries, **mode)):
            for place, hit in enumerate(hits):
                scores[number, hit.id] = 1 / (1 + place)
            first_three += any(right[number, hit.id] for hit in hits[:3])
        found[label] = {
            "nDCG@10": ndcg(scores, right),
            "right in the first 3": round(100 * first_three / len(queries), 1),
        }
    return found


def chosen(runs: dict[str, dict], model: str, method: str) -> dict[str, object]:
    """The weight that is best on all sets that choose, and what it is on each set when that set is left out."""

    def mean(weight: str, sets: list[str]) -> float:
        return float(np.mean([runs[f"{model}/{name}"][method][weight] for name in sets]))

    weights = list(map(str, WEIGHTS))
    left_out = {}
    for name in CHOOSING:
        best = max(weights, key=lambda weight: mean(weight, [other for other in CHOOSING if other != name]))
        left_out[name] = {"weight": float(best), "nDCG@10": round(mean(best, [name]), 2)}
    best = max(weights, key=lambda weight: mean(weight, CHOOSING))
    return {"weight": float(best), "nDCG@10": round(mean(best, CHOOSING), 2), "left out": left_out}


def load(name: str, data: Path, tuned: Path | None) -> SentenceTransformer:
    if name != "embedded, tuned":
        return SentenceTransformer(model_path(name), device="cpu")
    if tuned is not None and tuned.exists():
        return SentenceTransformer(str(tuned), device="cpu")
    model = SentenceTransformer(model_path("embedded"), device="cpu")
    titles, documents, *_ = cranfield(data)
    pairs = [(title, text) for title, text in zip(titles, documents, strict=True) if text.strip()]
    mirror_tune(model, pairs, "search", seed=1, guard=False, output_dir=tuned)
    return model


def measure(model_name: str, name: str, data: Path, tuned: Path | None) -> tuple[dict, dict]:
    """Curves of a model on one set, and what its searches find."""
    model = load(model_name, data, tuned)
    documents, queries, _ = asked(name, data)
    vectors = embed(model, [*queries, *documents], normalize_embeddings=True)
    found = {
        key: {str(weight): score for weight, score in value.items()} if isinstance(value, dict) else value
        for key, value in curves(vectors[: len(queries)], vectors[len(queries) :], name, data).items()
    }
    return found, searched(model, vectors[len(queries) :], name, data)


def section(kept: dict) -> str:
    result = kept["result"]
    rows = []
    for name, found in result["searches"].items():
        model, _, name_of_set = name.rpartition("/")
        one = {
            mode: f"{scores['nDCG@10']:.1f} ({scores['right in the first 3']:.0f})" for mode, scores in found.items()
        }
        rows.append({"model": model, "asked": name_of_set, **one})
    rows.sort(key=lambda row: (row["asked"] != "Cranfield", row["model"]))
    by_method = [
        {
            "model": name.rpartition("/")[0],
            "scores added by": name.rpartition("/")[2],
            "weight of meaning": one["weight"],
            "nDCG@10": f"{one['nDCG@10']:.1f}",
            "weights with one left out": ", ".join(
                f"{left['weight']:g} ({key})" for key, left in one["left out"].items()
            ),
            "nDCG@10 of it": f"{statistics.mean(left['nDCG@10'] for left in one['left out'].values()):.1f}",
        }
        for name, one in result["chosen"].items()
    ]
    by_weight = [
        {
            "model": name.rpartition("/")[0],
            "asked": name.rpartition("/")[2],
            **{f"{float(weight):g}": f"{score:.1f}" for weight, score in one["cosine from the mean"].items()},
        }
        for name, one in result["runs"].items()
    ]
    as_they_are = next(one["words as they are"] for name, one in result["runs"].items() if name.endswith("/Cranfield"))
    return (
        "## Words and meaning together\n\nnDCG@10 x 100 through `SearchIndex` with the default weight; in brackets, "
        "how many of 100 queries have a right text in the first three hits. Nothing was chosen by Cranfield, where "
        f"words that are not stemmed have {as_they_are:.1f}.\n\n{table(rows)}\nThe default, 0.3, is what is "
        "best for the embedded model on the three others; scores are BM25 over its best, and the cosine from what is "
        "named to its best.\n\n"
        f"{table(by_method)}\nnDCG@10 by weight of meaning, with the cosine from its mean:\n\n"
        f"{table(by_weight)}\n{source(kept['environment'], of_the_embedded=True)}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    add_jobs(args)
    args.add_argument("--models", nargs="+", default=["embedded", "all-MiniLM-L6-v2"], help=MODELS)
    args.add_argument("--tuned", type=Path, help="folder of the tuned model; it is tuned and kept there if absent")
    args = args.parse_args()
    kept, same = earlier(args.output or RESULTS / "hybrid.json", {"runs": {}, "searches": {}})
    result = {
        part: {k: v for k, v in kept[part].items() if same or "embedded" not in k} for part in ("runs", "searches")
    }
    asking = [(model, REPORTED) for model in ("embedded, tuned", *args.models)]
    asking += [(model, name) for model in args.models for name in CHOOSING]
    tasks = {f"{model}/{name}": (model, name, args.data, args.tuned) for model, name in asking}

    def add(label: str, found: tuple[dict, dict]) -> None:
        result["runs"][label], result["searches"][label] = found
        keep("hybrid", result, args.output)

    finish(tasks, result["searches"], measure, add, args.jobs)
    methods = [f"cosine from {label}" for label in FLOORS] + ["rrf"]
    result["chosen"] = {
        f"{model}/{method}": chosen(result["runs"], model, method) for model in args.models for method in methods
    }
    print(section(keep("hybrid", result, args.output)))


if __name__ == "__main__":
    main()
