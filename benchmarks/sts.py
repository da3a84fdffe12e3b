"""Similarity before and after tuning on the paper's 10,000 sentences: Spearman x 100 of cosine similarity.

Each seed draws its own masks, dropout and order. The tuning texts are sentences of STS-Benchmark's training part, so
that STS-B and STS12 to 15, which it was drawn from, are of their domain; SICK-R (captions), BIOSSES (biomedicine) and
the sets of words are not. ``--sets`` and ``--learning-rates`` are for choosing a recipe, on a dev set. Each finished
run is kept and not run again.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from benchmarks.common import (
    MODELS,
    RESULTS,
    add_data,
    add_jobs,
    earlier,
    finish,
    keep,
    model_path,
    paper_sentences,
    parser,
    read,
    spearman,
)
from benchmarks.markdown import by_seed, score, source, table
from sentence_transformers_mirror import mirror_tune
from sentence_transformers_mirror.evidence.labels import read_pairs

SETS = ["STS12", "STS13", "STS14", "STS15", "STS-B", "SICK-R dev", "BIOSSES", "Multi-SimLex ENG"]


def scores(model: SentenceTransformer, data: Path, sets: list[str], pairs: int | None = None) -> dict[str, float]:
    """Spearman x 100 on each set that is there."""
    found = {name: read_pairs(data, name) for name in sets}
    cut = {
        name: type(one)(one.first[:pairs], one.second[:pairs], one.scores[:pairs])
        for name, one in found.items()
        if one is not None
    }
    return {name: round(score, 2) for name, score in spearman(model.eval(), cut).items()}


def measure(
    model_name: str,
    pooling: str,
    recipe: str | None,
    overrides: dict[str, float],
    seed: int,
    texts: int,
    pairs: int | None,
    data: Path,
    sets: list[str],
) -> dict[str, object]:
    model = SentenceTransformer(model_path(model_name), device="cpu")
    if pooling != "mean":
        model[1] = Pooling(model.get_embedding_dimension(), pooling)
    if recipe is None:
        return {"scores": scores(model, data, sets, pairs)}
    sentences = paper_sentences(data)
    result = mirror_tune(model, sentences, recipe, seed=seed, max_texts=texts, guard=False, **overrides)
    return {
        "scores": scores(model, data, sets, pairs),
        "learning rate": result.recipe.learning_rate,
        "steps": result.steps,
        "texts": result.texts,
        "precision": result.precision,
        "seconds": round(result.seconds, 1),
    }


def similarity_row(name: str, runs: list[dict[str, float]]) -> dict[str, object]:
    sets = list(runs[0])
    digits = 1
    means = [statistics.mean(one.values()) for one in runs]
    return {"": name, **{one: score([run[one] for run in runs], digits) for one in sets}, "mean": score(means, digits)}


def section(kept: dict) -> str:
    result = kept["result"]
    rows = []
    for name, runs in by_seed(result["runs"]).items():
        recipe, _, rate = name.partition("/")
        label = f"{recipe} pooling" if "untuned" in name else f"`{recipe}`{f', learning rate {rate}' if rate else ''}"
        rows.append(similarity_row(label, [one["scores"] for one in runs]))
    tuned = [one for one in result["runs"].values() if "steps" in one]
    size = (
        f"{tuned[0]['texts']:,} distinct sentences, {tuned[0]['steps']} steps, {tuned[0]['precision']}, mean pooling."
    )
    return (
        "## Similarity before and after\n\nSpearman x 100 of cosine similarity, the embedded model tuned on the "
        "paper's 10,000 sentences (223 are in STS-B test, as in the paper; no labels are used). They come from its "
        "training part, and STS12 to 15 from the same sources: these sets are of the domain of the tuning texts. "
        "SICK-R (captions), BIOSSES (biomedicine) and Multi-SimLex (words) are not. Means over seeds, largest minus "
        f"smallest in brackets.\n\n{table(rows)}\n{size}\n\n{source(kept['environment'], of_the_embedded=True)}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    add_jobs(args)
    args.add_argument("--model", default="embedded", help=MODELS)
    args.add_argument("--name", default="sts", help="of the result")
    args.add_argument("--recipes", nargs="+", default=["sentence", "sentence-small"])
    args.add_argument("--learning-rates", nargs="+", type=float, default=[None], help="default: the recipe's own")
    args.add_argument("--sets", nargs="+", default=SETS)
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args.add_argument("--max-texts", type=int, default=10_000)
    args.add_argument("--pairs", type=int, help="of each set, for a quick look")
    args = args.parse_args()
    path = args.output or RESULTS / f"{args.name}.json"
    kept, same = earlier(path, {"runs": {}})
    runs = kept["runs"] if same else {}
    last = args.max_texts, args.pairs, args.data, args.sets
    tasks = {f"untuned, {pooling}": (args.model, pooling, None, {}, 0, *last) for pooling in ("mean", "cls")}
    for seed in args.seeds:
        for recipe in args.recipes:
            for rate in args.learning_rates:
                name = f"{recipe}/{'' if rate is None else f'{rate:g}'}/{seed}"
                overrides = {} if rate is None else {"learning_rate": rate}
                tasks[name] = (args.model, "mean", recipe, overrides, seed, *last)

    def add(name: str, result: dict[str, object]) -> None:
        runs[name] = result
        keep(args.name, {"model": args.model, "runs": runs}, args.output)

    finish(tasks, runs, measure, add, args.jobs)
    print(section(read(path)))


if __name__ == "__main__":
    main()
