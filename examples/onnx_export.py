"""A model that runs without PyTorch: tokens in, embeddings out, pooling included, in one ONNX file.

python examples/onnx_export.py tuned-model tuned.onnx

Needs pip install "sentence-transformers-mirror[onnx]". The host's own backend="onnx" does not install beside
transformers 5, because its exporter asks for an older one.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
import onnxruntime
import torch
from sentence_transformers import SentenceTransformer

TEXTS = ["a short text", "a text that is longer than the other, so that one of them is padded", "short"]


class Embedding(torch.nn.Module):
    """The model as a function of tensors, since ONNX has no dictionaries."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("output")
    args = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    model = SentenceTransformer(args.model, device="cpu").eval()
    batch = dict(model.tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))
    inputs = ("input_ids", "attention_mask")
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}  # texts and tokens
    torch.onnx.export(
        Embedding(model).eval(),
        tuple(batch[name] for name in inputs),
        args.output,
        input_names=inputs,
        output_names=["sentence_embedding"],
        dynamic_shapes=dict.fromkeys(inputs, any_size),
        dynamo=True,
        verbose=False,
    )

    session = onnxruntime.InferenceSession(args.output, providers=["CPUExecutionProvider"])
    tokens = model.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="np")
    (embeddings,) = session.run(None, {name: tokens[name].astype(np.int64) for name in inputs})
    print(f"{args.output}: largest difference to PyTorch {abs(embeddings - model.encode(TEXTS)).max():.1e}")


if __name__ == "__main__":
    main()
