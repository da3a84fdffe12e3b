"""Table 10: words after tuning on random strings of letters and digits; Multi-SimLex, Spearman x 100."""

from __future__ import annotations

import argparse
import random
import string

from benchmarks.common import paper_words, spearman
from benchmarks.paper.shared import Table, line, load, parser, report, scored, tuned

SET = "Multi-SimLex ENG"
PAPER = {"before": 26.7, "words": 55.6, "random": 39.3}  # mean pooling before, as the best of the two


def random_strings(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase + string.digits, k=draw.randint(3, 12))) for _ in range(count)]


def measure(args: argparse.Namespace) -> Table:
    sets = scored(args, [SET])
    on_words = [spearman(tuned(args, paper_words(args.data), "word", seed), sets)[SET] for seed in args.seeds]
    on_noise = [
        spearman(tuned(args, random_strings(args.max_texts, seed), "word", seed), sets)[SET] for seed in args.seeds
    ]
    lines = [
        line("before, mean", PAPER["before"], spearman(load(args, "mean"), sets)[SET]),
        line("after, on words", PAPER["words"], on_words),
        line("after, on random strings", PAPER["random"], on_noise),
    ]
    changes = {
        "tuning on words": ("before, mean", "after, on words"),
        "tuning on random strings": ("before, mean", "after, on random strings"),
    }
    return lines, changes


def main() -> None:
    args = parser(__doc__, pooling="cls").parse_args()
    report("table10_random_strings", "Table 10: random strings", args, *measure(args))


if __name__ == "__main__":
    main()
