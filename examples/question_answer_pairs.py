"""Raw text first, then labelled pairs: MirrorLoss takes two columns, such as questions and their answers, as they are.

python examples/question_answer_pairs.py pairs.tsv tuned-model [--model bert-base-uncased]

The file has a header and the columns question and answer. First the texts of both are tuned on without labels, then
the pairs. Pairs with the same answer are no negatives of each other.
"""

from __future__ import annotations

import argparse
import tempfile

from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from sentence_transformers_mirror import MirrorLoss, embedded_model_path, mirror_tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        pairs = load_dataset(
            "csv", data_files=args.pairs, sep="\t", split="train", cache_dir=folder, keep_in_memory=True
        )
        pairs = pairs.select_columns(["question", "answer"])
        model = SentenceTransformer(args.model)
        mirror_tune(model, [*pairs["question"], *pairs["answer"]])
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=args.batch_size,
                num_train_epochs=1,
                learning_rate=2e-5,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=pairs,
            loss=MirrorLoss(model, temperature=0.05),
        ).train()
    model.save_pretrained(args.output)
    questions, answers = (model.encode(list(pairs[name])) for name in ("question", "answer"))
    best = model.similarity(questions, answers).argmax(dim=1)
    found = sum(pairs["answer"][int(row)] == pairs["answer"][i] for i, row in enumerate(best))
    print(
        f"{found} of {len(pairs)} questions find their answer first (on the pairs tuned on; hold some out for a test)"
    )


if __name__ == "__main__":
    main()
