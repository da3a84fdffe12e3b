"""The host's Trainer, as tuning uses it: its batches, its precision, its bar, and what it is told."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor
from torch.utils.data import Sampler, get_worker_info
from transformers import TrainerCallback, TrainingArguments

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.terminal import bar
from sentence_transformers_mirror.training.loss import LAYOUT
from sentence_transformers_mirror.training.recipes import Recipe

logger = logging.getLogger(__name__)

_WORKERS = 12  # processes that prepare batches for a GPU at most: a text takes 0.6 ms to be cut and tokenized


class MirrorTrainer(SentenceTransformerTrainer):
    """The host's Trainer with one autocast region around all forward passes of a step."""

    model_card_callback_class = _host.PrivateCardCallback

    def __init__(self, *, callbacks: list[TrainerCallback], **options: Any) -> None:
        self.progress = Progress()
        super().__init__(callbacks=[self.progress, *callbacks], **options)
        self.autocast_bf16 = _host.has_native_bf16(self.args.device)
        # Both print what is logged; Progress shows it.
        self.remove_callback(_host.PrinterCallback)
        self.remove_callback(_host.ProgressCallback)

    def get_batch_sampler(self, dataset: Dataset, *args: Any, **kwargs: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(Shuffled(len(dataset), kwargs["generator"]), *args, **kwargs)

    # With ``bf16=True`` the host would wrap ``model.forward`` instead: weights would be cast once for each group of
    # rows, and the wrapper would stay on the model. This it only enters.
    def compute_loss_context_manager(self) -> AbstractContextManager:  # type: ignore[override]
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.autocast_bf16 else nullcontext()

    def compute_loss(self, *args, **kwargs) -> Tensor:
        loss = cast(Tensor, super().compute_loss(*args, **kwargs))  # nobody asks for the outputs
        self.progress.losses[self.state.global_step] = loss.detach()
        return loss

    def take_steps(self) -> bool:
        """Take all steps; gives whether Ctrl-C ended the run early."""
        interrupted = False
        try:
            self.train()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if self.progress.bar is not None:
                self.progress.bar.close()
            self.model.zero_grad()
            _host.end_workers(self)
        if interrupted:
            logger.warning(
                f"Stopped by Ctrl-C at step {self.state.global_step} of {self.state.max_steps}; "
                "the model holds the weights of that step."
            )
        return interrupted


class Shuffled(Sampler[int]):
    """Each row once, in a new order each time. The host's sampler makes a Python list of the whole order, 40 bytes a
    row; this makes one of a few thousand at a time."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.rows, generator=self.generator, dtype=torch.int32 if self.rows < 2**31 else None)
        for part in order.split(4_096):
            yield from part.tolist()

    def __len__(self) -> int:
        return self.rows


class Collator(_host.SentenceTransformerDataCollator):
    """Tells the loss the lengths of rows, so that it need not ask the device for them."""

    def __call__(self, features: list[dict[str, object]]) -> dict[str, object]:
        if get_worker_info() is not None:
            # Threads of the tokenizer do not survive a fork; without this it warns of that in each worker.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        batch = super().__call__(features)
        mask = "attention_mask"
        layouts = {key.removesuffix(mask) + LAYOUT: batch[key].numpy() for key in batch if key.endswith(f"_{mask}")}
        return {**batch, **layouts}


class Progress(TrainerCallback):
    """Shows a bar and stops a run whose loss is not a number any more."""

    bar: Any = None
    losses = torch.zeros(0)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.bar = bar(total=state.max_steps, desc="Tuning", unit="step")
        # One tensor for all: one a step would each hold on to the memory around it.
        self.losses = torch.zeros(state.max_steps, device=args.device)
        give_memory_back()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update()
        if state.global_step % 50 == 0 and args.device.type == "cpu":
            give_memory_back()
        # Not in every step: reading a loss waits for the device.
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            losses = self.losses[: state.global_step]
            self.bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if not losses.isfinite().all():
                step = int(losses.isfinite().logical_not().nonzero()[0]) + 1
                raise FloatingPointError(f"The loss is not a number at step {step}: {_cause(step, args)}")

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.bar.close()
        if not all(parameter.isfinite().all() for parameter in kwargs["model"].parameters()):
            raise FloatingPointError(f"Weights are not numbers after step {state.global_step}: {_cause(2, args)}")


def _cause(step: int, args: TrainingArguments) -> str:
    if step == 1:
        return "the model's own weights or embeddings are not numbers; load it anew."
    return (
        f"the learning rate of {args.learning_rate:g} is likely too high; try a tenth of it. "
        "The model has its original weights back."
    )


def give_memory_back() -> None:
    """To the system, on Linux: glibc keeps what was freed, in pieces of which ever fewer are of use to steps of ever
    other shapes. A call takes 20 ms."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # other libraries have none
        library.malloc_trim(0)


def _workers(device: torch.device) -> int:
    """Processes that make views. On a CPU they would only take turns with the steps."""
    return 0 if device.type == "cpu" else min(_WORKERS, 3 * (os.cpu_count() or 1) // 4)


def arguments(device: torch.device, recipe: Recipe, folder: str, seed: int, texts: int) -> TrainingArguments:
    """What the host's Trainer is told: the recipe's values, and to keep and report nothing."""
    assert recipe.learning_rate is not None  # planned
    on_cpu = device.type == "cpu"
    # A last, smaller batch would have fewer negatives and so another loss; the paper's code drops it, too.
    drop_last = texts >= recipe.batch_size
    steps = recipe.epochs * (texts // recipe.batch_size if drop_last else 1)
    workers = 0 if recipe.views is None else _workers(device)
    args = SentenceTransformerTrainingArguments(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear" if recipe.decay else "constant_with_warmup",
        warmup_steps=round(recipe.warm_up * steps),
        max_grad_norm=0.0,  # the paper's code does not clip
        dataloader_drop_last=drop_last,
        # Cropping and tokenizing take longer than a GPU does.
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        use_cpu=on_cpu,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # reads the loss, and so waits for the device, in every step
        report_to="none",
        disable_tqdm=True,
    )
    _host.use_one_device(args)
    return args
