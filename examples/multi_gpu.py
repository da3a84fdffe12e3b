"""One batch over several GPUs: the texts of all devices are each other's negatives.

torchrun --standalone --nproc_per_node 4 examples/multi_gpu.py texts.txt tuned-model [--model bert-base-uncased]

On a machine without GPUs the processes share the CPU, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from sentence_transformers_mirror import CachedMirrorLoss, dropout_rate, embedded_model_path, load_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts")
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("--batch-size", type=int, default=200, help="of each device")
    args = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    texts, _ = load_corpus(args.texts)
    model = SentenceTransformer(args.model)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(args.output / "run"),
            per_device_train_batch_size=args.batch_size,
            learning_rate=2e-5,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            ddp_backend="nccl" if on_gpu else "gloo",
            save_strategy="no",
            report_to="none",
            # Each rank needs as many rows as the others.
            dataloader_drop_last=True,
        ),
        train_dataset=texts,
        # Cached, so that a large batch fits; plain MirrorLoss is faster where it does.
        loss=CachedMirrorLoss(model, gather_across_devices=True),
    )
    with dropout_rate(model, 0.1):
        trainer.train()
    if trainer.is_world_process_zero():
        model.save_pretrained(str(args.output))
        world = trainer.args.world_size
        print(f"{trainer.state.global_step} steps of {world} x {args.batch_size} texts; saved to {args.output}")


if __name__ == "__main__":
    main()
