"""Table 3: semantic textual similarity before and after tuning on 10,000 sentences, Spearman x 100, "all" per year."""

from __future__ import annotations

import argparse

from benchmarks.common import paper_sentences, spearman
from benchmarks.paper.shared import Table, line, load, parser, report, scored, tuned
from sentence_transformers_mirror.evidence.evaluation import SEVEN

PAPER = {  # CLS, mean over text and padding, tuned
    "STS12": (21.5, 31.4, 67.0),
    "STS13": (32.1, 53.6, 80.1),
    "STS14": (21.3, 43.3, 71.3),
    "STS15": (37.9, 58.2, 81.2),
    "STS16": (44.2, 59.6, 74.3),
    "STS-B": (20.3, 46.4, 76.4),
    "SICK-R": (42.7, 52.8, 69.9),
}


def measure(args: argparse.Namespace) -> Table:
    sets = scored(args, SEVEN)
    before = {pooling: spearman(load(args, pooling), sets) for pooling in ("cls", "mean")}
    after = [spearman(tuned(args, paper_sentences(args.data), "sentence", seed), sets) for seed in args.seeds]
    lines, changes = [], {}
    for name, (cls, mean, mirror) in PAPER.items():
        lines.append(line(f"{name}, before, CLS", cls, before["cls"].get(name)))
        lines.append(line(f"{name}, before, mean", mean, before["mean"].get(name)))
        lines.append(line(f"{name}, after", mirror, [one[name] for one in after] if name in sets else None))
        changes[f"{name}, tuning, from mean"] = f"{name}, before, mean", f"{name}, after"
    return lines, changes


def main() -> None:
    args = parser(__doc__).parse_args()
    report("table03_sts", "Table 3: similarity of sentences", args, *measure(args))


if __name__ == "__main__":
    main()
