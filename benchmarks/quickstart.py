"""What `st-mirror quickstart` finds and prints, with several seeds; README shows a part of what the first one prints.

Nothing was chosen by these numbers: the docstrings that are asked are of modules that the run did not tune on.
"""

from __future__ import annotations

from benchmarks.common import keep, parser
from benchmarks.markdown import score, source, table
from sentence_transformers_mirror import quickstart
from sentence_transformers_mirror.cli.quickstart import told

KEPT = ("before", "after", "tfidf", "evidence", "pairs", "tuned_on", "steps", "seconds")


def measure(seeds: list[int]) -> dict[str, object]:
    runs, printed = {}, ""
    for seed in seeds:
        found = quickstart.run(seed=seed)
        printed = printed or told(found, None)
        ranks = [one["ranks"] for one in found["questions"]]
        answered = {mode: sum(one[mode] in (1, 2, 3) for one in ranks) for mode in ranks[0]}
        runs[str(seed)] = {**{name: found[name] for name in KEPT}, "questions": len(ranks), "answered": answered}
    return {"runs": runs, "printed": printed}


def section(kept: dict) -> str:
    runs = list(kept["result"]["runs"].values())
    rows = [
        {
            "": name,
            "among all": score([run[key]["mrr"] for run in runs], 3),
            "among look-alikes": score([run[key]["mrr_look_alikes"] for run in runs], 3),
        }
        for key, name in (("before", "before tuning"), ("after", "after tuning"), ("tfidf", "words (TF-IDF)"))
    ]
    verdicts = ", ".join(f"{run['evidence']['verdict']} ({run['evidence']['difference']:+.3f})" for run in runs)
    answered = ", ".join(
        f"{score([run['answered'][mode] for run in runs], 1)} by {mode}" for mode in ("meaning", "words", "both")
    )
    return (
        "## What the quickstart gains\n\nDoes the first sentence of a docstring find the rest of it, in modules that "
        f"were not tuned on? Mean reciprocal rank; means over {len(runs)} seeds, largest minus smallest in brackets. "
        f"{score([run['seconds'] for run in runs], 0)} seconds in all.\n\n{table(rows)}\n"
        f"The verdicts: {verdicts}. Of {runs[0]['questions']} questions so many have a right answer among the first "
        f"three: {answered}.\n\n{source(kept['environment'], of_the_embedded=True)}"
    )


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--seeds", nargs="+", type=int, default=[42, 1, 2])
    args = args.parse_args()
    print(section(keep("quickstart", measure(args.seeds), args.output)))


if __name__ == "__main__":
    main()
