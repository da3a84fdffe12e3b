"""What tuning gains: the table of which README shows a part, of what `sts` and `search_tuning` measured."""

from __future__ import annotations

import statistics

from benchmarks.common import RESULTS, read
from benchmarks.markdown import by_seed, table

YEARS = ["STS12", "STS13", "STS14", "STS15"]
OF_WHAT = {
    "the recipe": "`search`, on Cranfield's 1,400 abstracts",
    "with 1,400 sentences": "`search`, on these and 1,400 of the sentences",
    "then `sentence`": "`search` on the abstracts, then `sentence`",
    "and `sentence` in turn": "`search` on the abstracts and `sentence`, in turn",
    "0.6 of it and 0.7 of `sentence`": "0.6 of what `search` changes and 0.7 of what `sentence` changes, added",
}


def section(of_similarity: dict, of_search: dict) -> str:
    similarity, searches = by_seed(of_similarity["result"]["runs"]), of_search["result"]
    found = by_seed(searches["runs"])
    untuned = [one["tuned"] for one in found["embedded/aeronautics/untuned"]]
    by_search = [one["tuned"] for one in found.get("embedded/aeronautics/the recipe", [])]
    by_sentence = [one["scores"] for one in similarity.get("sentence/", [])]

    def kept(scores: list[dict[str, float]], which: str, alone: list[dict[str, float]]) -> str:
        """The share of the gain of one recipe alone."""
        if not alone:
            return ""
        before, most, now = (statistics.mean(run[which] for run in runs) for runs in (untuned, alone, scores))
        return f"{(now - before) / (most - before):.0%}"

    def row(name: str, scores: list[dict[str, float]], seeds: int | str, both: bool = False) -> dict[str, object]:
        def mean(sets: list[str]) -> str:
            if not sets or any(one not in scores[0] for one in sets):
                return ""
            return f"{statistics.mean(statistics.mean(run[one] for one in sets) for run in scores):.1f}"

        every = [one for one in scores[0] if one != "nDCG@10"]
        names = {"STS-B test": ["STS-B"], "STS12 to 15": YEARS, "SICK-R dev": ["SICK-R dev"], "BIOSSES": ["BIOSSES"]}
        names |= {"Multi-SimLex": ["Multi-SimLex ENG"], "mean of all sets": every if len(every) > 1 else []}
        return {
            "": name,
            "Cranfield nDCG@10": mean(["nDCG@10"]),
            **{title: mean(sets) for title, sets in names.items()},
            "kept of `search`": kept(scores, "nDCG@10", by_search) if both else "",
            "kept of `sentence`": kept(scores, "STS-B", by_sentence) if both else "",
            "seeds": seeds,
        }

    rows = [row("as it is", untuned, "")]
    for name, runs in similarity.items():
        if "untuned" not in name:
            label = f"`{name.rstrip('/')}`, on 10,000 sentences of STS-B's training part"
            rows.append(row(label, [one["scores"] for one in runs], len(runs)))
    for variant, label in OF_WHAT.items():
        for what in ("tuned", "averaged") if variant == "the recipe" else ("tuned",):
            runs = [one[what] for one in found.get(f"embedded/aeronautics/{variant}", []) if what in one]
            if runs:
                words = "the same, averaged with the original weights" if what == "averaged" else label
                rows.append(row(words, runs, len(runs), variant != "the recipe"))
    rows.append(
        {**dict.fromkeys(rows[0], ""), "": "words alone (BM25)", "Cranfield nDCG@10": f"{searches['BM25']:.1f}"}
    )
    return (
        "## What tuning gains\n\nThe embedded model: nDCG@10 x 100 on Cranfield, and Spearman x 100 of cosine "
        "similarity; means over seeds. Kept is the share of what a recipe alone gains on Cranfield or STS-B. Commands "
        "and spreads stand below, under "
        "*Similarity before and after* and *Tuning for search*.\n\n"
        f"{table(rows)}"
    )


if __name__ == "__main__":
    print(section(*(read(RESULTS / f"{name}.json") for name in ("sts", "search_tuning"))))
