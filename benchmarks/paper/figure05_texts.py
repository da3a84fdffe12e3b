"""Figure 5: how many texts; sentences on STS12 and words on Multi-SimLex, Spearman x 100.

The paper's curves peak at 10,000 to 20,000 and then fall; their values are only in the figure. The files at hand hold
10,000 of each.
"""

from __future__ import annotations

import argparse

from benchmarks.common import paper_sentences, paper_words, spearman
from benchmarks.paper.shared import Table, line, load, parser, report, scored, tuned

COUNTS = (500, 1_000, 2_000, 5_000, 10_000)


def measure(args: argparse.Namespace) -> Table:
    lines = []
    for name, texts, recipe in (
        ("STS12", paper_sentences(args.data), "sentence"),
        ("Multi-SimLex ENG", paper_words(args.data), "word"),
    ):
        sets = scored(args, [name])
        lines.append(line(f"{name}, before", None, spearman(load(args), sets)[name]))
        for count in COUNTS:
            if count <= args.max_texts:
                models = (tuned(args, texts, recipe, seed, max_texts=count) for seed in args.seeds)
                lines.append(line(f"{name}, {count:,} texts", None, [spearman(one, sets)[name] for one in models]))
    return lines, {}


def main() -> None:
    args = parser(__doc__).parse_args()
    report("figure05_texts", "Figure 5: number of texts", args, *measure(args))


if __name__ == "__main__":
    main()
