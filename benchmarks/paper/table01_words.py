"""Table 1: similarity of English words, Multi-SimLex, before and after tuning on 10,000 words; Spearman x 100."""

from __future__ import annotations

import argparse

from benchmarks.common import paper_words, spearman
from benchmarks.paper.shared import Table, line, load, parser, report, scored, tuned

PAPER = {"cls": 10.5, "mean": 26.7, "after": 55.6}
SET = "Multi-SimLex ENG"


def measure(args: argparse.Namespace) -> Table:
    sets = scored(args, [SET])
    after = [spearman(tuned(args, paper_words(args.data), "word", seed), sets)[SET] for seed in args.seeds]
    lines = [
        line(f"before, {pooling}", PAPER[pooling], spearman(load(args, pooling), sets)[SET])
        for pooling in ("cls", "mean")
    ]
    lines.append(line("after", PAPER["after"], after))
    changes = {f"tuning, from {pooling}": (f"before, {pooling}", "after") for pooling in ("cls", "mean")}
    return lines, changes


def main() -> None:
    args = parser(__doc__, pooling="cls").parse_args()
    report("table01_words", "Table 1: similarity of words", args, *measure(args))


if __name__ == "__main__":
    main()
