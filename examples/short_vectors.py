"""Embeddings that can be cut to fewer dimensions.

python examples/short_vectors.py texts.txt tuned-model [--model bert-base-uncased]

MatryoshkaLoss around MirrorLoss trains the first dimensions to stand alone.
"""

from __future__ import annotations

import argparse
import tempfile

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

from sentence_transformers_mirror import MirrorLoss, dropout_rate, embedded_model_path, load_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    args = parser.parse_args()

    texts, _ = load_corpus(args.texts)
    model = SentenceTransformer(args.model)
    dimensions = [model.get_embedding_dimension() // part for part in (1, 2, 4)]
    with tempfile.TemporaryDirectory() as folder, dropout_rate(model, 0.1):
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=200,
                num_train_epochs=1,
                learning_rate=2e-5,
                lr_scheduler_type="constant",
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=texts,
            loss=MatryoshkaLoss(model, MirrorLoss(model), dimensions),
        ).train()
    model.save_pretrained(args.output)
    for dimension in dimensions:
        short = SentenceTransformer(args.output, truncate_dim=dimension)
        print(f"{dimension} dimensions: {short.encode(texts['text'][:1]).shape}")


if __name__ == "__main__":
    main()
