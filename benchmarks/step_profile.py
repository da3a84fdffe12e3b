"""Where a step of `mirror_tune` goes, and how far from what the machine could do.

Random models of two shapes (BERT architecture), the paper's sentences, batch 200. The parts are timed inside the real
Trainer by wrapping its functions; the first steps are left out. Two floors, from the shapes:

- arithmetic: 6 x 12 x layers x width^2 operations a real token (forward and backward of the layers' matrices) over the
  rate of a matrix product of the size that a group of rows has, measured in the same process;
- bytes: what has to be read and written once (weights and gradients, the state of AdamW, activations kept for the
  backward pass) over the bandwidth of a copy, measured in the same process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from benchmarks.common import add_data, keep, paper_sentences, parser
from benchmarks.markdown import source, table
from benchmarks.tuning_speed import random_model
from sentence_transformers_mirror import TokenSpanMask, mirror_tune
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.training import loss, packing, trainer

SKIPPED = 2  # steps that are still allocating
# What is timed: a name, whose attribute, and the attribute.
PARTS = [
    ("tokenise", trainer.Collator, "__call__"),
    ("mask", TokenSpanMask, "forward"),
    ("pack", packing, "pack"),
    ("forward", SentenceTransformer, "forward"),
    ("loss", loss, "nt_xent"),
    ("compute_loss", trainer.MirrorTrainer, "compute_loss"),
    ("training_step", trainer.MirrorTrainer, "training_step"),
    ("optimiser", torch.optim.AdamW, "step"),
    ("progress", trainer.Progress, "on_step_end"),
]


@contextmanager
def timed(spent: dict[str, float], device: torch.device) -> Iterator[None]:
    """Add up the seconds of every part while the context is open."""

    def wrap(name: str, function: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            wait(device)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait(device)
                spent[name] += time.perf_counter() - start

        return wrapper

    with ExitStack() as stack:
        for name, owner, attribute in PARTS:
            stack.enter_context(patch.object(owner, attribute, wrap(name, getattr(owner, attribute))))
        yield


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Clock(TrainerCallback):
    """Starts the count anew after the first steps, and keeps the time of each of the others."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent, self.steps, self.last = spent, [], 0.0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now = time.perf_counter()
        if state.global_step == SKIPPED:
            self.spent.clear()
        elif state.global_step > SKIPPED:
            self.steps.append(now - self.last)
        self.last = now


def matrix_rate(rows: int, width: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of (rows, width) and (width, 4 width)."""
    a, b = (
        torch.randn(rows, width, device=device, dtype=dtype),
        torch.randn(width, 4 * width, device=device, dtype=dtype),
    )
    return 8 * rows * width**2 / seconds(lambda: a @ b, device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy that no cache holds."""
    a = torch.zeros(2**26, device=device)
    b = torch.empty_like(a)
    return 8 * a.numel() / seconds(lambda: b.copy_(a), device)


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    times = []
    for _ in range(rounds):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(shape: str, texts: list[str], steps: int, batch_size: int, device: str) -> dict[str, object]:
    layers, width = map(int, shape.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(folder, shape, device)
    bf16 = has_native_bf16(model.device)
    texts = list(dict.fromkeys(texts))[: (SKIPPED + steps) * batch_size]
    tokens = 2 * sum(map(len, model.tokenizer(texts, truncation=True, max_length=50)["input_ids"]))
    tokens *= batch_size / len(texts)
    spent: dict[str, float] = defaultdict(float)
    clock = Clock(spent)
    with timed(spent, model.device):
        mirror_tune(model, texts, batch_size=batch_size, callbacks=[clock])
    each = {name: 1000 * value / len(clock.steps) for name, value in spent.items()}
    whole = 1000 * statistics.mean(clock.steps)
    inside = each["mask"] + each["pack"] + each["forward"] + each["loss"]
    parts = {
        **{name: each[name] for name in ("tokenise", "mask", "pack", "forward", "loss")},
        "rest of MirrorLoss": each["compute_loss"] - inside,
        "backward": each["training_step"] - each["compute_loss"],
        "optimiser": each["optimiser"],
        "progress bar": each["progress"],
    }
    parts["Trainer, data, rest"] = whole - sum(parts.values())
    rate = matrix_rate(int(tokens / 6), width, model.device, torch.bfloat16 if bf16 else torch.float32)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # AdamW reads four numbers a parameter and writes three; weights are read twice, gradients written once. A layer
    # keeps about 16 widths a token, written in the forward and read in the backward pass.
    moved = 4 * (10 * parameters + 2 * 16 * width * layers * tokens)
    return {
        "shape": shape,
        "precision": "bf16" if bf16 else "fp32",
        "real tokens": round(tokens),
        "steps": len(clock.steps),
        "parts, ms": {name: round(value, 1) for name, value in parts.items()},
        "whole step, ms": round(whole, 1),
        "matrix rate, 10^9 operations a second": round(rate / 1e9, 1),
        "arithmetic floor, ms": round(1000 * 72 * layers * width**2 * tokens / rate, 1),
        "bandwidth, GB a second": round(bandwidth(model.device) / 1e9, 1),
        "bytes floor, ms": round(1000 * moved / bandwidth(model.device), 1),
    }


def section(kept: dict | None) -> str:
    """All of profile.md."""
    head = "# Where a step goes\n\nWritten by `python -m benchmarks.render` from `benchmarks/results/profile.json`.\n"
    if kept is None:
        return f"{head}\nNot measured yet: `python -m benchmarks.step_profile --data DATA`.\n"
    rows = [
        {"ms a step": part, **{one["shape"]: f"{one['parts, ms'][part]:.1f}" for one in kept["result"]}}
        for part in kept["result"][0]["parts, ms"]
    ]
    facts = ["whole step, ms", "arithmetic floor, ms", "bytes floor, ms", "real tokens", "precision"]
    facts += ["matrix rate, 10^9 operations a second", "bandwidth, GB a second"]
    rows += [{"ms a step": fact, **{one["shape"]: one[fact] for one in kept["result"]}} for fact in facts]
    words = (
        "Means over steps inside the real Trainer, batch 200, random models of layers x width. The arithmetic floor "
        "is that of the matrices of the layers over the rate of a matrix product; the bytes floor is what has to be "
        "read and written once over the bandwidth of a copy. Dropout, attention, norms and activation functions are "
        "in neither.\n"
    )
    return "\n".join([head, source(kept["environment"]), words, table(rows)])


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--shapes", nargs="+", default=["6x256", "12x768"], help="layers x width")
    args.add_argument("--steps", nargs="+", type=int, default=[8, 3], help="timed steps, one number a shape")
    args.add_argument("--batch-size", type=int, default=200)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = args.parse_args()
    if len(args.shapes) != len(args.steps):
        raise SystemExit("Give as many numbers of --steps as --shapes.")
    texts = paper_sentences(args.data)
    found = []
    for shape, steps in zip(args.shapes, args.steps, strict=True):
        found.append(measure(shape, texts, steps, args.batch_size, args.device))
        print(found[-1], flush=True)
    print(section(keep("profile", found, args.output)))


if __name__ == "__main__":
    main()
