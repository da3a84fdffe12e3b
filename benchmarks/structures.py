"""Does another structure of texts than the first sentence and the rest see gains that labels see?

Runs of `verdict` that gain on labels of other texts than those that judge. After each, the change of the mean
reciprocal rank is measured with every structure that paragraphs have, on the same paragraphs and in both directions.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import RESULTS, add_data, add_jobs, earlier, finish, keep, parser
from benchmarks.markdown import source, table
from benchmarks.verdict import DOCUMENTS, domain, load
from sentence_transformers_mirror import mirror_tune
from sentence_transformers_mirror.evidence.parts import split_parts
from sentence_transformers_mirror.evidence.verdict import judge
from sentence_transformers_mirror.evidence.verdict import measure as measure_parts

# Documents for each; neighbours are many pairs a document.
STRUCTURES = {"first": DOCUMENTS, "halves": DOCUMENTS, "neighbours": 250, "single": DOCUMENTS}
RUNS = {
    "similarity": [("sentence", 1e-4), ("sentence-drophead", 5e-5), ("sentence", 2e-5), ("search", 1.5e-4)],
    "questions": [("search", 1.5e-4), ("search", 2e-5), ("sentence-drophead", 5e-5)],
}


def measure(name: str, recipe: str, rate: float, seed: int, texts: int, data: Path) -> dict[str, object]:
    place, model = domain(name, data), load("embedded")
    parts = {one: split_parts(place.documents, one, max_documents=most) for one, most in STRUCTURES.items()}
    before = {one: measure_parts(model, mine) for one, mine in parts.items()}
    score = place.score(model)
    on = place.long if recipe == "search" else place.texts
    mirror_tune(model, on, recipe, max_texts=texts, seed=seed, batch_size=50, guard=False, learning_rate=rate)
    found = {one: judge(before[one], measure_parts(model, mine), mine) for one, mine in parts.items()}
    changes = {one: (round(e.difference, 4), round(e.low, 4), round(e.high, 4)) for one, e in found.items()}
    return {"labels": round(place.score(model) - score, 2), "changes": changes}


def section(kept: dict) -> str:
    rows = []
    for name, run in kept["result"].items():
        place, recipe, rate = name.split("/")
        changes = {one: "{:+.3f} ({:+.3f} to {:+.3f})".format(*run["changes"][one]) for one in STRUCTURES}
        rows.append(
            {"domain": place, "recipe": recipe, "learning rate": rate, "labels": f"{run['labels']:+.1f}", **changes}
        )
    return (
        "## Do other structures see more gains?\n\nRuns of the section above that gain on labels of other texts than "
        "those that judge, seed 1. Changes of the mean reciprocal rank with a structure of held-out paragraphs, and "
        f"their 95% intervals.\n\n{table(rows)}\n{source(kept['environment'], of_the_embedded=True)}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    add_jobs(args)
    args.add_argument("--texts", type=int, default=1_000, help="to tune on (default: %(default)s)")
    whole = args.get_default("texts")
    args = args.parse_args()
    if args.texts != whole and not args.output:
        raise SystemExit("Other --texts are for a quick look: name another --output, where they are not the result.")
    runs, same = earlier(args.output or RESULTS / "structures.json", {})
    runs = runs if same else {}
    tasks = {
        f"{name}/{recipe}/{rate:g}": (name, recipe, rate, 1, args.texts, args.data)
        for name, settings in RUNS.items()
        for recipe, rate in settings
    }

    def add(name: str, run: dict[str, object]) -> None:
        runs[name] = run
        keep("structures", runs, args.output)

    finish(tasks, runs, measure, add, args.jobs)
    print(section(keep("structures", runs, args.output)))


if __name__ == "__main__":
    main()
