"""A model for search and for similarity: how much to add of what `search` and `sentence` change in the weights.

Both recipes tune the embedded model from its own weights: `search` on docstrings of scikit-learn, `sentence` on the
10,000 sentences of the paper. Then shares of both changes are added. A sum is judged as in `search_tuning`: by how
well a first sentence of a module that was not tuned on finds the rest (mean reciprocal rank x 100), and by STS-B dev.
``kept`` is what a sum keeps of the gain that the recipe alone has, and the smaller of the two decides. The sum that
is chosen here is reported on Cranfield and STS-B test by `search_tuning`.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import torch

from benchmarks.common import (
    RESULTS,
    add_data,
    add_jobs,
    documentation,
    earlier,
    finish,
    keep,
    paper_sentences,
    parser,
    read,
)
from benchmarks.markdown import by_seed, source, table
from benchmarks.search_tuning import DOCUMENTS, library, load, tuned
from sentence_transformers_mirror import mirror_tune

# Of the change by `search` and of that by `sentence`.
SHARES = [(0.4, 0.7), (0.4, 0.9), (0.5, 0.5), (0.5, 0.7), (0.5, 0.9)]
SHARES += [(a, b) for a in (0.6, 0.7, 0.8, 0.9, 1.0) for b in (0.3, 0.5, 0.7, 0.9)]
LIBRARY = "sklearn"
Weights = dict[str, torch.Tensor]


def added(original: Weights, changed: list[tuple[float, Weights]]) -> Weights:
    """The original weights and a share of each change of them."""
    return {
        name: tensor + sum(share * (weights[name] - tensor) for share, weights in changed)
        for name, tensor in original.items()
    }


def measure(seed: int, data: Path) -> dict[str, dict[str, float]]:
    """Scores of the model as it is, of both recipes alone, and of each sum."""
    model = load("embedded")

    def weights() -> Weights:
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    original, found = weights(), {"untuned": library(model, LIBRARY, data)}
    documents = documentation(LIBRARY)[0]
    random.Random(0).shuffle(documents)
    documents = documents[:DOCUMENTS]
    tuned(model, documents, {}, seed, max(1, round(DOCUMENTS / len(documents))))
    by_search, found["search"] = weights(), library(model, LIBRARY, data)
    model.load_state_dict(original)
    mirror_tune(model, paper_sentences(data), "sentence", seed=seed)
    by_sentence, found["sentence"] = weights(), library(model, LIBRARY, data)
    for a, b in SHARES:
        model.load_state_dict(added(original, [(a, by_search), (b, by_sentence)]))
        found[f"{a} and {b}"] = library(model, LIBRARY, data)
    return found


def kept(runs: list[dict], name: str) -> tuple[float, float]:
    """Means over runs of what is kept of the gains in search and in similarity."""

    def mean(which: str, score: str) -> float:
        return statistics.mean(run[which][score] for run in runs)

    return tuple(
        (mean(name, score) - mean("untuned", score)) / (mean(alone, score) - mean("untuned", score))
        for score, alone in ((LIBRARY, "search"), ("STS-B dev", "sentence"))
    )


def section(result: dict) -> str:
    runs = by_seed(result["result"]["runs"])["sums"]
    rows = []
    for name in runs[0]:
        of_search, of_similarity = kept(runs, name)
        rows.append(
            {
                "`search` and `sentence`": name.replace("search", "`search` alone").replace(
                    "sentence", "`sentence` alone"
                ),
                "scikit-learn": f"{statistics.mean(run[name][LIBRARY] for run in runs):.1f}",
                "STS-B dev": f"{statistics.mean(run[name]['STS-B dev'] for run in runs):.1f}",
                "kept of search": f"{of_search:.0%}",
                "kept of similarity": f"{of_similarity:.0%}",
            }
        )
    text = (
        "## Two changes added\n\nShares of what `search` and `sentence` change in the weights of the embedded model, "
        f"means over seeds ({len(runs)}). The sum is chosen here, by the smaller of the two that are kept."
    )
    return f"{text}\n\n{table(rows)}\n{source(result['environment'], of_the_embedded=True)}"


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    add_jobs(args)
    args.add_argument("--seeds", nargs="+", type=int, default=[1])
    args = args.parse_args()
    path = args.output or RESULTS / "added_changes.json"
    before, same = earlier(path, {"runs": {}})
    runs = before["runs"] if same else {}

    def add(name: str, one: dict[str, object]) -> None:
        runs[name] = one
        keep("added_changes", {"runs": runs}, args.output)

    finish({f"sums/{seed}": (seed, args.data) for seed in args.seeds}, runs, measure, add, args.jobs)
    print(section(read(path)))


if __name__ == "__main__":
    main()
