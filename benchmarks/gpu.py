"""One epoch on a GPU, a batch of 65,536, and embedding, for a model of BERT-base's shape.

Weights are random, which timing does not mind; texts are the paper's 10,000 sentences. The epoch is timed after a
warm-up step, from strings to updated weights, all contestants in bfloat16, on the same batches, in one process and in
turn:

- ``ours``: one column through `MirrorLoss` with its defaults; also cut into other numbers of groups, and compiled.
- ``host``: `MultipleNegativesRankingLoss` on two identical columns, the host's documented SimCSE recipe.
- ``paper``: as released: both views padded to 50 tokens, two forward passes, `NTXentLoss` of pytorch-metric-learning.

`mirror_tune` is the whole call on the same sentences, the host's Trainer included. The large batch is one step of
`CachedMirrorLoss`. Embedding is `embed`, which `SearchIndex.build` uses, beside the host's `encode` with its defaults.
Runs on a CPU, too, to be tried.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from common import add_data, keep, paper_sentences, parser
from sentence_transformers import SentenceTransformer
from tuning_speed import Contestant, host, on_device, ours, paper, random_model, seconds

from sentence_transformers_mirror import CachedMirrorLoss, mirror_tune
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.embedding import embed

GROUPS = 1, 4, 8  # the default on a GPU is 2


@contextmanager
def compiled(model: SentenceTransformer, backend: str) -> Iterator[None]:
    """The transformer of a model compiled, for batches of any shape, while the context is open."""
    transformer = model[0].auto_model
    transformer.compile(dynamic=True, backend=backend)
    try:
        yield
    finally:
        transformer._compiled_call_impl = None


def epoch(contestant: Contestant, batches: list[list[str]], context: Callable[[], AbstractContextManager]) -> float:
    """Seconds of all batches, after a warm-up step on the first."""
    with context():
        contestant.step(batches[0])
        return seconds(contestant.model, lambda: [contestant.step(batch) for batch in batches])


def busy(contestant: Contestant, batches: list[list[str]]) -> float | str:
    """Share of the time of some steps in which the GPU computes; the rest it waits for the processor."""
    if contestant.model.device.type != "cuda":
        return "not measured"
    taken = seconds(contestant.model, lambda: [contestant.step(batch) for batch in batches])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds(contestant.model, lambda: [contestant.step(batch) for batch in batches])
    on_gpu = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return round(on_gpu / taken, 2)


def large_batch(model: SentenceTransformer, texts: list[str], mini_batch_size: int, bf16: bool) -> dict[str, object]:
    """One step of `CachedMirrorLoss`; memory is what tensors took on the GPU beside the model."""
    on_gpu = model.device.type == "cuda"
    loss = CachedMirrorLoss(model.train(), mini_batch_size=mini_batch_size).to(model.device)
    features = on_device(model, model.preprocess(texts))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            value = loss([features])
        value.backward()

    taken = seconds(model, step)
    model.zero_grad()
    memory = round((torch.cuda.max_memory_allocated() - before) / 1e6) if on_gpu else "not measured"
    return {"texts in the batch": len(texts), "seconds": round(taken, 2), "memory, MB": memory}


def embedding(model: SentenceTransformer, texts: list[str], rounds: int, bf16: bool) -> dict[str, float]:
    """Texts a second of ours and of the host's `encode`, in turn."""
    rates: dict[str, list[float]] = {"ours": [], "host": []}
    for _ in range(rounds):
        for name, call in (("ours", lambda: embed(model, texts)), ("host", lambda: model.encode(texts))):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                start = time.perf_counter()
                call()  # gives numpy arrays, and so waits for the device
                rates[name].append(len(texts) / (time.perf_counter() - start))
    return {name: round(statistics.median(found)) for name, found in rates.items()}


def whole_call(model: SentenceTransformer, texts: list[str], batch_size: int, rounds: int) -> float:
    """Seconds of the training loop of `mirror_tune`; its first call warms up."""
    calls = [mirror_tune(model, texts, batch_size=batch_size, guard=False) for _ in range(1 + rounds)]
    return round(statistics.median(call.seconds for call in calls[1:]), 2)


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--shape", default="12x768", help="layers x width")
    args.add_argument("--texts", type=int, default=10_000)
    args.add_argument("--batch-size", type=int, default=200)
    args.add_argument("--large", type=int, nargs="+", default=[4_096, 65_536], help="sizes of the large batch")
    args.add_argument("--mini-batch-size", type=int, default=1_024)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--backend", default="inductor", help="of torch.compile (default: %(default)s)")
    args.add_argument("--rounds", type=int, default=3)
    args = args.parse_args()
    bf16 = has_native_bf16(torch.device(args.device))
    sentences = paper_sentences(args.data)[: args.texts]
    random.Random(0).shuffle(sentences)
    last = len(sentences) - args.batch_size + 1
    batches = [sentences[begin : begin + args.batch_size] for begin in range(0, last, args.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(folder, args.shape, args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    default = Contestant(model, optimizer, ours(model), bf16)
    entrants = {
        "ours": (default, nullcontext),
        **{f"ours, groups={n}": (Contestant(model, optimizer, ours(model, n), bf16), nullcontext) for n in GROUPS},
        "ours, compiled": (default, partial(compiled, model, args.backend)),
        "host": (Contestant(model, optimizer, host(model), bf16), nullcontext),
        "paper": (Contestant(model, optimizer, paper(model), bf16), nullcontext),
    }
    times: dict[str, list[float]] = {name: [] for name in entrants}
    result: dict[str, object] = {
        "shape": args.shape,
        "precision": "bf16" if bf16 else "fp32",
        "texts": len(sentences),
        "steps": len(batches),
    }

    def keep_epochs() -> None:
        """What was measured so far, so that a run that is cut off leaves it."""
        result["epoch"] = [
            {
                "contestant": name,
                "seconds": round(statistics.median(found), 2),
                "times ours": round(statistics.median(a / b for a, b in zip(found, times["ours"], strict=False)), 2),
            }
            for name, found in times.items()
            if found
        ]
        keep("gpu", result, args.output)

    for turn in range(args.rounds):
        for name, (contestant, context) in entrants.items():
            times[name].append(epoch(contestant, batches, context))
            print(f"epoch {turn + 1}, {name}: {times[name][-1]:.2f} s", flush=True)
            keep_epochs()
    result["share of the time in which the GPU computes"] = {
        name: busy(entrants[name][0], batches[:10]) for name in ("ours", "host", "paper")
    }
    result["mirror_tune, seconds"] = whole_call(model, sentences, args.batch_size, args.rounds)
    keep_epochs()
    result["embedding, texts a second"] = embedding(model, sentences, args.rounds, bf16)
    # The strings are short, and different; the paper's sentences are too few.
    result["large batch"] = [
        large_batch(model, [f"name {number} of {size}" for number in range(size)], args.mini_batch_size, bf16)
        for size in args.large
    ]
    print(result)
    keep("gpu", result, args.output)


if __name__ == "__main__":
    main()
