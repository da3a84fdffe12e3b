"""Time per training step: ours, the host's SimCSE recipe, and the paper's recipe as released.

All contestants take a step on the same batch in turn, so that a noisy machine is noisy for all of them, and on the
same model, so that only one has to fit into memory. Each takes it twice and the second counts; then its memory goes
back to the system. Ratios are medians over batches of the ratio within a batch. A step is everything from strings to
updated weights: tokenising, views, forward, loss, backward, AdamW. Models are random (BERT architecture, no
download), sentences are the paper's.

- ``ours``: one column through `MirrorLoss` with its defaults.
- ``host``: `MultipleNegativesRankingLoss` on two identical columns, the host's documented SimCSE recipe.
- ``paper``: as released: both views padded to 50 tokens, two forward passes, `NTXentLoss` of pytorch-metric-learning.
- ``paper, dense loss``: the same with our loss, to tell its padding from its loss.

The floor is (real tokens of both views) x (time per token, forward and backward, of a full rectangle of tokens).
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from pytorch_metric_learning.losses import NTXentLoss
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from benchmarks.common import add_data, keep, paper_sentences, parser
from benchmarks.markdown import source, table
from sentence_transformers_mirror import CharSpanMask, MirrorLoss, embedded_model_path, nt_xent
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.training import packing as packing_module
from sentence_transformers_mirror.training.trainer import give_memory_back

MAX_LENGTH = 50


def random_model(folder: str, shape: str, device: str) -> SentenceTransformer:
    layers, width = map(int, shape.split("x"))
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(folder, max_seq_length=MAX_LENGTH)
    return SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device=device)


class Contestant:
    """A way to compute the loss of a list of texts."""

    def __init__(
        self,
        model: SentenceTransformer,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[list[str]], torch.Tensor],
        bf16: bool,
    ) -> None:
        self.model, self.optimizer, self.loss, self.bf16 = model.train(), optimizer, loss, bf16

    def step(self, texts: list[str]) -> None:
        with torch.autocast(self.model.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            loss = self.loss(texts)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def ours(model: SentenceTransformer, groups: int | None = None) -> Callable[[list[str]], torch.Tensor]:
    loss = MirrorLoss(model, groups=groups).to(model.device)
    return lambda texts: loss([on_device(model, model.preprocess(texts))])


def host(model: SentenceTransformer) -> Callable[[list[str]], torch.Tensor]:
    loss = MultipleNegativesRankingLoss(model)
    return lambda texts: loss([on_device(model, model.preprocess(texts)) for _ in range(2)], None)


def paper(model: SentenceTransformer, dense: bool = False) -> Callable[[list[str]], torch.Tensor]:
    mask, tokenizer = CharSpanMask(model.tokenizer), model.tokenizer
    pairs = NTXentLoss(temperature=0.04)

    def embed(texts: list[str]) -> torch.Tensor:
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        return model(on_device(model, dict(tokens)))["sentence_embedding"]

    def loss(texts: list[str]) -> torch.Tensor:
        a, b = embed(texts), embed([mask(text) for text in texts])
        if dense:
            return nt_xent(a, b, 0.04)
        return pairs(torch.cat([a, b]), torch.arange(len(texts)).repeat(2))

    return loss


def on_device(model: SentenceTransformer, features: dict) -> dict:
    return {key: value.to(model.device) if hasattr(value, "to") else value for key, value in features.items()}


def seconds(model: SentenceTransformer, work: Callable[[], object]) -> float:
    synchronise = torch.cuda.synchronize if model.device.type == "cuda" else (lambda: None)
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


def time_per_token(model: SentenceTransformer, bf16: bool, rows: int = 24) -> float:
    """Forward and backward over a rectangle of full width without padding, in seconds a token."""
    ids = torch.randint(10, 1000, (rows, MAX_LENGTH), device=model.device)
    model.train()

    def work() -> None:
        with torch.autocast(model.device.type, torch.bfloat16) if bf16 else nullcontext():
            embedding = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["sentence_embedding"]
        embedding.float().pow(2).sum().backward()
        model.zero_grad()

    work()
    return seconds(model, work) / ids.numel()


def profile(contestant: Contestant, texts: list[str]) -> dict[str, float]:
    """Where one step of ours goes, in milliseconds."""
    model, loss = contestant.model, MirrorLoss(contestant.model).to(contestant.model.device)
    parts: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        result = []
        parts[name] = parts.get(name, 0) + 1000 * seconds(model, lambda: result.append(work()))
        return result[0]

    forward, plan = model.forward, packing_module.plan_groups
    model.forward = lambda *args, **kwargs: timed("forward", lambda: forward(*args, **kwargs))
    packing_module.plan_groups = lambda *args, **kwargs: timed("plan groups", lambda: plan(*args, **kwargs))
    try:
        whole = time.perf_counter()
        features = timed("tokenise", lambda: on_device(model, model.preprocess(texts)))
        timed("mask (also in views and loss)", lambda: loss.mask(features))
        with torch.autocast(model.device.type, torch.bfloat16) if contestant.bf16 else nullcontext():
            value = timed("views, forward and loss", lambda: loss([features]))
        timed("backward", value.backward)
        timed("optimiser", contestant.optimizer.step)
        parts["whole step"] = 1000 * (time.perf_counter() - whole) - parts["mask (also in views and loss)"]
    finally:
        del model.forward
        packing_module.plan_groups = plan
        contestant.optimizer.zero_grad()
    return {name: round(value, 2) for name, value in parts.items()}


def measure(shape: str, batches: list[list[str]], folder: str, device: str, bf16s: list[bool]) -> dict:
    entrants = {"ours": ours, "host": host, "paper": paper, "paper, dense loss": partial(paper, dense=True)}
    model = random_model(folder, shape, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    contestants = {
        f"{name}, {'bf16' if bf16 else 'fp32'}": Contestant(model, optimizer, make(model), bf16)
        for bf16 in bf16s
        for name, make in entrants.items()
    }
    warm_up, *batches = batches
    for contestant in contestants.values():
        contestant.step(warm_up[:10])
    times: dict[str, list[float]] = {name: [] for name in contestants}
    floors: dict[bool, list[float]] = {bf16: [] for bf16 in bf16s}
    tokens = []
    for number, batch in enumerate(batches, start=1):
        tokens.append(2 * int(model.preprocess(batch)["attention_mask"].sum()))
        for name, contestant in contestants.items():
            contestant.step(batch)  # so that its memory is there, as it is in a training loop from the second step on
            times[name].append(seconds(model, lambda c=contestant, b=batch: c.step(b)))
            if name.startswith("ours"):  # beside ours, since the ratio of the two is what counts
                floors[contestant.bf16].append(time_per_token(model, contestant.bf16) * tokens[-1])
            give_memory_back()
        print(f"{shape} step {number} of {len(batches)}:", {k: round(v[-1], 2) for k, v in times.items()}, flush=True)

    def ratio(numerator: list[float], denominator: list[float]) -> float:
        return round(statistics.median(n / d for n, d in zip(numerator, denominator, strict=True)), 2)

    rows = []
    for name, contestant in contestants.items():
        precision = "bf16" if contestant.bf16 else "fp32"
        rows.append(
            {
                "contestant": name,
                "seconds per step": round(statistics.median(times[name]), 3),
                "times the floor": ratio(times[name], floors[contestant.bf16]),
                "times ours at equal precision": ratio(times[name], times[f"ours, {precision}"]),
                **({"times ours in bf16": ratio(times[name], times["ours, bf16"])} if True in bf16s else {}),
            }
        )
    breakdown = {name: profile(contestants[name], batches[0]) for name in contestants if name.startswith("ours")}
    return {"shape": shape, "real tokens": statistics.median(tokens), "rows": rows, "profile, ms": breakdown}


def section(kept: dict) -> str:
    result = kept["result"]
    parts = [
        f"## Time per training step, {result['shape']} (layers x width)",
        "",
        f"Batch of {result['batch size']}; all contestants step on the same batches in turn, in one process; medians. "
        "A step is everything from strings to updated weights. The floor is the real tokens of both views times the "
        "time per token of a full rectangle, forward and backward.",
    ]
    if not result["native bf16"]:
        parts.append(
            "\nThis machine has no bfloat16 in hardware, so only float32 was measured; emulated, it would be slower."
        )
    parts += [
        "",
        f"{result['real tokens']:,.0f} real tokens a step.",
        "",
        table(result["rows"]),
        'Where a step of ours goes, in milliseconds (masking is inside "views, forward and loss", too):\n',
        table([{"": name, **one} for name, one in result["profile, ms"].items()]),
        source(kept["environment"]),
    ]
    return "\n".join(parts)


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--shapes", nargs="+", default=["6x256", "12x768"], help="layers x width")
    args.add_argument("--steps", nargs="+", type=int, default=[6, 3], help="timed steps, one number a shape")
    args.add_argument("--batch-size", type=int, default=200)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--seed", type=int, default=0)
    args = args.parse_args()
    if len(args.shapes) != len(args.steps):
        raise SystemExit("Give as many numbers of --steps as --shapes.")
    sentences = paper_sentences(args.data)
    random.Random(args.seed).shuffle(sentences)
    bf16s = [False, True] if has_native_bf16(torch.device(args.device)) else [False]
    if bf16s == [False]:
        print("This device has no bfloat16 in hardware: float32 only.")
    for shape, steps in zip(args.shapes, args.steps, strict=True):
        batches = [sentences[i * args.batch_size : (i + 1) * args.batch_size] for i in range(steps + 1)]
        with tempfile.TemporaryDirectory() as folder:
            result = measure(shape, batches, folder, args.device, bf16s)
        result = {"batch size": args.batch_size, "native bf16": True in bf16s, **result}
        print(section(keep(f"tuning_speed_{shape}", result, args.output)))


if __name__ == "__main__":
    main()
