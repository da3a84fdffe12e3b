"""MirrorLoss in a training loop of one's own: the host's Trainer, and the legacy `model.fit`.

python examples/own_trainer.py texts.txt [--loop trainer|fit]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    InputExample,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch.utils.data import DataLoader

from sentence_transformers_mirror import MirrorLoss, dropout_rate, embedded_model_path


def train(model: SentenceTransformer, texts: list[str], batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch_size,
            learning_rate=2e-5,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
        )
        SentenceTransformerTrainer(
            model=model,
            args=args,
            train_dataset=Dataset.from_dict({"text": texts}),  # one column: the loss masks the second view itself
            loss=MirrorLoss(model),
        ).train()


def fit(model: SentenceTransformer, texts: list[str], batch_size: int) -> None:
    loader = DataLoader([InputExample(texts=[text]) for text in texts], batch_size=batch_size, shuffle=True)
    # fit warms up for 10,000 steps unless told otherwise: longer than the whole run.
    model.fit([(loader, MirrorLoss(model))], epochs=1, warmup_steps=0, scheduler="constantlr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--loop", choices=["trainer", "fit"], default="trainer")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("--batch-size", type=int, default=200)
    args = parser.parse_args()

    model = SentenceTransformer(args.model)
    texts = [line for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    with dropout_rate(model, 0.1):  # whatever the model was configured with
        {"trainer": train, "fit": fit}[args.loop](model, texts, args.batch_size)
    print(model.similarity(model.encode(texts[:3]), model.encode(texts[:3])))


if __name__ == "__main__":
    main()
