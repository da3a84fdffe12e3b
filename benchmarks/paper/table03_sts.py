"""Table 3: semantic textual similarity before and after tuning on 10,000 sentences, Spearman x 100, "all" per year."""

from __future__ import annotations

from shared import line, load, paper_sentences, parser, report, tuned

from sentence_transformers_mirror.evaluation import SEVEN, labelled_sets

PAPER = {  # CLS, mean over text and padding, tuned
    "STS12": (21.5, 31.4, 67.0),
    "STS13": (32.1, 53.6, 80.1),
    "STS14": (21.3, 43.3, 71.3),
    "STS15": (37.9, 58.2, 81.2),
    "STS16": (44.2, 59.6, 74.3),
    "STS-B": (20.3, 46.4, 76.4),
    "SICK-R": (42.7, 52.8, 69.9),
}


def main() -> None:
    args = parser(__doc__).parse_args()
    sets = [one for one in labelled_sets(args.data, "sts", batch_size=128) if one.name in SEVEN]

    def scores(model) -> dict[str, float | None]:
        return {
            one.name: None if one.evaluator is None else 100 * one.evaluator(model)[f"{one.name}_spearman_cosine"]
            for one in sets
        }

    before = [scores(load(args, pooling)) for pooling in ("cls", "mean")]
    after = [scores(tuned(args, paper_sentences(args.data), "sentence", seed)) for seed in args.seeds]
    lines = []
    for name, (cls, mean, mirror) in PAPER.items():
        lines.append(line(f"{name}, before, CLS", cls, before[0][name]))
        lines.append(line(f"{name}, before, mean", mean, before[1][name]))
        lines.append(line(f"{name}, after", mirror, None if before[0][name] is None else [one[name] for one in after]))
    report("table03_sts", "Table 3: similarity of sentences", args, lines)


if __name__ == "__main__":
    main()
