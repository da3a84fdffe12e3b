"""Table 2: linking disease mentions to MEDIC, NCBI, before and after tuning on 10,000 names; accuracy x 100.

The paper tunes on names of UMLS and scores the test set; here both names and dictionary are MEDIC's, and the mentions
are those of the development set where the test set is not there.
"""

from __future__ import annotations

import argparse
import random

from benchmarks.paper.shared import Table, line, load, parser, report, tuned
from sentence_transformers_mirror.evidence.evaluation import LinkingEvaluator
from sentence_transformers_mirror.evidence.labels import LINKING_SETS, Linking, read_linking

PAPER = {"before": (67.6, 77.0), "after": (87.2, 92.1)}


def measure(args: argparse.Namespace, linking: Linking) -> Table:
    evaluator = LinkingEvaluator(linking)
    names = sorted(set(linking.names))

    def scores(model) -> tuple[float, float]:
        metrics = evaluator(model)
        return 100 * metrics["accuracy@1"], 100 * metrics["accuracy@5"]

    after = []
    for seed in args.seeds:
        sample = random.Random(seed).sample(names, min(args.max_texts, len(names)))
        after.append(scores(tuned(args, sample, "phrase", seed)))
    before = scores(load(args))
    lines = []
    for place, k in enumerate((1, 5)):
        lines.append(line(f"before, accuracy@{k}", PAPER["before"][place], before[place]))
        lines.append(line(f"after, accuracy@{k}", PAPER["after"][place], [one[place] for one in after]))
    changes = {f"tuning, accuracy@{k}": (f"before, accuracy@{k}", f"after, accuracy@{k}") for k in (1, 5)}
    return lines, changes


def main() -> None:
    args = parser(__doc__, pooling="cls").parse_args()
    found = {name: read_linking(args.data, name) for name in reversed(LINKING_SETS)}
    name, linking = next(((name, one) for name, one in found.items() if one is not None), (None, None))
    if linking is None:
        raise SystemExit(f"The NCBI disease corpus and MEDIC are not in {args.data}.")
    report("table02_linking", f"Table 2: linking, {name}", args, *measure(args, linking))


if __name__ == "__main__":
    main()
