"""Figure 4: does a sentence answer a question? Area under the curve x 100 on QNLI, tuned on its sentences or STS."""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.common import paper_sentences, read_table
from benchmarks.paper.shared import Table, line, load, parser, report, tuned
from sentence_transformers_mirror.embedding import embed

PAPER = {"QNLI": 67.4, "STS": 66.5}  # the paper's text, 4.2 and 4.4; the bars before tuning are only in the figure


def measure(args: argparse.Namespace) -> Table:
    rows = read_table(next(args.data.rglob("qnli.dev.tsv*")))
    gold = [row["label"] == "entailment" for row in rows]

    def score(model) -> float:
        texts = [row[name] for name in ("question", "sentence") for row in rows]
        a, b = np.split(embed(model, texts, normalize_embeddings=True), 2)
        return 100 * float(roc_auc_score(gold, (a * b).sum(axis=1)))

    # The paper's 10,000 are of the training set; the sentences of the development set are what is at hand.
    corpora = {
        "QNLI": list(dict.fromkeys(row["sentence"] for row in rows)),
        "STS": paper_sentences(args.data),
    }
    lines = [line("before", None, score(load(args)))]
    for name, texts in corpora.items():
        scores = [score(tuned(args, texts, "sentence", seed)) for seed in args.seeds]
        lines.append(line(f"after, on sentences of {name}", PAPER[name], scores))
    changes = {"STS for QNLI": ("after, on sentences of QNLI", "after, on sentences of STS")}
    return lines, changes


def main() -> None:
    args = parser(__doc__).parse_args()
    report("figure04_qnli", "Figure 4: question and answer", args, *measure(args))


if __name__ == "__main__":
    main()
