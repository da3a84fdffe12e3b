"""Table 10: words after tuning on random strings of letters and digits; Multi-SimLex, Spearman x 100."""

from __future__ import annotations

import random
import string

from shared import line, load, paper_words, parser, report, tuned, words

PAPER = {"before": 26.7, "words": 55.6, "random": 39.3}  # mean pooling before, as the best of the two


def random_strings(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase + string.digits, k=draw.randint(3, 12))) for _ in range(count)]


def main() -> None:
    args = parser(__doc__, pooling="cls").parse_args()
    score = words(args)
    on_words = [score(tuned(args, paper_words(args.data), "word", seed)) for seed in args.seeds]
    on_noise = [score(tuned(args, random_strings(args.max_texts, seed), "word", seed)) for seed in args.seeds]
    lines = [
        line("before, mean", PAPER["before"], score(load(args, "mean"))),
        line("after, on words", PAPER["words"], on_words),
        line("after, on random strings", PAPER["random"], on_noise),
    ]
    report("table10_random_strings", "Table 10: random strings", args, lines)


if __name__ == "__main__":
    main()
