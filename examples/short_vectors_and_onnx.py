"""Embeddings that can be cut to fewer dimensions, and a model that runs without PyTorch.

python examples/short_vectors_and_onnx.py texts.txt tuned-model [--onnx] [--model bert-base-uncased]

MatryoshkaLoss around MirrorLoss trains the first dimensions to stand alone. --onnx needs
pip install "sentence-transformers[onnx]".
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
    parser.add_argument("--onnx", action="store_true")
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
    if args.onnx:
        exported = SentenceTransformer(args.output, backend="onnx", model_kwargs={"export": True})
        exported.save_pretrained(args.output)
        sample = texts["text"][:8]
        print(f"largest difference to PyTorch: {abs(exported.encode(sample) - model.encode(sample)).max():.1e}")


if __name__ == "__main__":
    main()
