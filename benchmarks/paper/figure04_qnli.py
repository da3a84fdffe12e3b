"""Figure 4: does a sentence answer a question? Area under the curve x 100 on QNLI, tuned on its sentences or STS."""

from __future__ import annotations

from shared import line, load, paper_sentences, parser, report, table, tuned
from sklearn.metrics import roc_auc_score

PAPER = {"QNLI": 67.4, "STS": 66.5}  # the paper's text, 4.2 and 4.4; the bars before tuning are only in the figure


def main() -> None:
    args = parser(__doc__).parse_args()
    rows = table(next(args.data.rglob("qnli.dev.tsv*")))
    gold = [row["label"] == "entailment" for row in rows]

    def score(model) -> float:
        a, b = (
            model.encode(
                [row[name] for row in rows], batch_size=128, normalize_embeddings=True, show_progress_bar=False
            )
            for name in ("question", "sentence")
        )
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
    report("figure04_qnli", "Figure 4: question and answer", args, lines)


if __name__ == "__main__":
    main()
