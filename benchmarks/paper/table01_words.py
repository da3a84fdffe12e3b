"""Table 1: similarity of English words, Multi-SimLex, before and after tuning on 10,000 words; Spearman x 100."""

from __future__ import annotations

from shared import line, load, paper_words, parser, report, tuned, words

PAPER = {"cls": 10.5, "mean": 26.7, "after": 55.6}


def main() -> None:
    args = parser(__doc__, pooling="cls").parse_args()
    score = words(args)
    after = [score(tuned(args, paper_words(args.data), "word", seed)) for seed in args.seeds]
    lines = [line(f"before, {pooling}", PAPER[pooling], score(load(args, pooling))) for pooling in ("cls", "mean")]
    lines.append(line(f"after, {args.pooling}", PAPER["after"], after))
    report("table01_words", "Table 1: similarity of words", args, lines)


if __name__ == "__main__":
    main()
