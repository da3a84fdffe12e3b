"""One epoch on a GPU, a batch of 65,536, and embedding, for a model of BERT-base's shape.

Weights are random, which timing does not mind; texts are the paper's 10,000 sentences. The epoch is timed after a
warm-up step, from strings to updated weights, all contestants in bfloat16, on the same batches, in one process and in
turn:

- ``ours``: one column through `MirrorLoss` with its defaults; also cut into other numbers of groups, and compiled.
- ``host``: `MultipleNegativesRankingLoss` on two identical columns, the host's documented SimCSE recipe.
- ``paper``: as released: both views padded to 50 tokens, two forward passes, `NTXentLoss` of pytorch-metric-learning.

`mirror_tune` is the whole call on the same sentences, the host's Trainer included. The large batch is one step of
`CachedMirrorLoss`. Embedding is `embed`, which `SearchIndex.build` uses, beside the host's `encode` with its defaults.
Documents are made up and tuned on by the recipe `search`: does making views keep a GPU waiting? Each part is kept with
its machine, so that one can be measured anew without the others. Runs on a CPU, too, to be tried.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from benchmarks.common import RESULTS, add_data, earlier, keep, paper_sentences, parser, read
from benchmarks.markdown import source, table
from benchmarks.tuning_speed import Contestant, host, on_device, ours, paper, random_model, seconds
from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, mirror_tune
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.environment import environment


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


def large_batch(model: SentenceTransformer, texts: list[str], mini_batch_size: int) -> dict[str, object]:
    """One step of `CachedMirrorLoss`; memory is what tensors took on the GPU beside the model."""
    on_gpu = model.device.type == "cuda"
    loss = CachedMirrorLoss(model.train(), mini_batch_size=mini_batch_size).to(model.device)
    features = on_device(model, model.preprocess(texts))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=has_native_bf16(model.device)):
            value = loss([features])
        value.backward()

    taken = seconds(model, step)
    model.zero_grad()
    memory = round((torch.cuda.max_memory_allocated() - before) / 1e6) if on_gpu else "not measured"
    return {"texts in the batch": len(texts), "seconds": round(taken, 2), "memory, MB": memory}


def epochs(model: SentenceTransformer, texts: list[str], args: argparse.Namespace, save: Callable) -> None:
    """The epoch of all contestants in turn, kept after each, so that a run that is cut off leaves what it had."""
    random.Random(0).shuffle(texts)
    last = len(texts) - args.batch_size + 1
    batches = [texts[begin : begin + args.batch_size] for begin in range(0, last, args.batch_size)]
    bf16 = has_native_bf16(model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    default = Contestant(model, optimizer, ours(model), bf16)
    entrants = {
        "ours": (default, nullcontext),
        **{
            f"ours, groups={n}": (Contestant(model, optimizer, ours(model, n), bf16), nullcontext) for n in args.groups
        },
        "ours, compiled": (default, partial(compiled, model, args.backend)),
        "host": (Contestant(model, optimizer, host(model), bf16), nullcontext),
        "paper": (Contestant(model, optimizer, paper(model), bf16), nullcontext),
    }
    times: dict[str, list[float]] = {name: [] for name in entrants}
    result: dict[str, object] = {"texts": len(texts), "steps": len(batches)}
    for turn in range(args.rounds):
        for name, (contestant, context) in entrants.items():
            times[name].append(epoch(contestant, batches, context))
            print(f"epoch {turn + 1}, {name}: {times[name][-1]:.2f} s", flush=True)
            result["rows"] = [
                {
                    "contestant": name,
                    "seconds": round(statistics.median(found), 2),
                    "least": round(min(found), 2),
                    "times ours": round(
                        statistics.median(a / b for a, b in zip(found, times["ours"], strict=False)), 2
                    ),
                }
                for name, found in times.items()
                if found
            ]
            save(result)
    result["share of the time in which the GPU computes"] = {
        name: busy(entrants[name][0], batches[:10]) for name in ("ours", "host", "paper")
    }
    calls = [mirror_tune(model, texts, batch_size=args.batch_size, guard=False) for _ in range(2)]
    result["mirror_tune, seconds"] = round(calls[-1].seconds, 2)  # the first warms up
    save(result)


class StepTimes(TrainerCallback):
    """When each step was ready to be followed by the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def documents(model: SentenceTransformer, _: list[str], args: argparse.Namespace, save: Callable) -> None:
    """Seconds a step of the recipe `search`, views and all, beside the same on batches that are there already."""
    draw = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra", "so", "ti") for b in ("n", "rt", "ss", "x", "")]
    rows = []
    for size in args.documents:
        texts = [
            ". ".join(" ".join(draw.choices(words, k=12)) for _ in range(draw.randint(2, 24))) for _ in range(8 * size)
        ]
        watch = StepTimes()
        options = {"batch_size": size, "epochs": 2 * args.rounds, "guard": False, "max_texts": len(texts)}
        result = mirror_tune(model, texts, "search", callbacks=[watch], **options)
        taken = np.diff(watch.ends)[len(watch.ends) // 2 :]  # the first half warms up
        views = [result.recipe.views({"text": texts[begin : begin + size]}) for begin in range(0, len(texts), size)]
        loss = MirrorLoss(model.train(), result.recipe.temperature, mask=None, labels_are_ids=True).to(model.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        longest, model.max_seq_length = model.max_seq_length, result.recipe.max_length
        batches = [
            (
                [on_device(model, model.preprocess(batch[side])) for side in ("anchor", "positive")],
                torch.tensor(batch["label"], device=model.device),
            )
            for batch in views
        ]
        model.max_seq_length = longest

        def steps(batches=batches, loss=loss, optimizer=optimizer) -> None:
            for features, labels in batches:
                with torch.autocast(model.device.type, torch.bfloat16, enabled=has_native_bf16(model.device)):
                    value = loss([dict(column) for column in features], labels)
                value.backward()
                optimizer.step()
                optimizer.zero_grad()

        steps()
        alone = min(seconds(model, steps) for _ in range(args.rounds)) / len(batches)
        tokens = sum(int(column["attention_mask"].sum()) for features, _ in batches for column in features)
        rows.append(
            {
                "documents a step": size,
                "real tokens a step": round(tokens / len(batches)),
                "seconds a step of mirror_tune": round(float(np.median(taken)), 4),
                "of the step alone": round(alone, 4),
            }
        )
        print(rows[-1], flush=True)
        save(rows)


def embedding(model: SentenceTransformer, texts: list[str], args: argparse.Namespace, save: Callable) -> None:
    """Texts a second of ours and of the host's `encode`, in turn."""
    rates: dict[str, list[float]] = {"ours": [], "host": []}
    for _ in range(args.rounds):
        for name, call in (("ours", lambda: embed(model, texts)), ("host", lambda: model.encode(texts))):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=has_native_bf16(model.device)):
                start = time.perf_counter()
                call()  # gives numpy arrays, and so waits for the device
                rates[name].append(len(texts) / (time.perf_counter() - start))
    save({name: round(statistics.median(found)) for name, found in rates.items()})


def large(model: SentenceTransformer, _: list[str], args: argparse.Namespace, save: Callable) -> None:
    # The strings are short, and different; the paper's sentences are too few.
    rows = []
    for size in args.large:
        rows.append(large_batch(model, [f"name {number} of {size}" for number in range(size)], args.mini_batch_size))
        save(rows)


def of_epoch(result: dict) -> tuple[str, str]:
    shares = result["share of the time in which the GPU computes"]
    return "One epoch", (
        f"{result['texts']:,} sentences in {result['steps']} steps, from strings to updated weights, after a warm-up "
        "step; medians over rounds. Groups: forward passes that a batch is cut into.\n\n"
        f"{table(result['rows'])}\n\nAll of `mirror_tune`, the host's Trainer included: "
        f"{result['mirror_tune, seconds']} s. Share of the time in which the GPU computes, and does not wait for the "
        f"processor: {', '.join(f'{name} {share}' for name, share in shares.items())}.\n"
    )


def of_embedding(rates: dict) -> tuple[str, str]:
    return "Embedding", (
        f"{rates['ours']:,} texts a second, beside {rates['host']:,} of the host's `encode` with its defaults: "
        f"{rates['ours'] / rates['host']:.2f} times as many.\n"
    )


def of_large(rows: list[dict]) -> tuple[str, str]:
    return "Large batches", f"One step of `CachedMirrorLoss`.\n\n{table(rows)}\n"


def of_documents(rows: list[dict]) -> tuple[str, str]:
    return "Tuning for search", (
        "Steps of the recipe `search` by `mirror_tune`, beside the same steps on batches whose views were made and "
        f"tokenized before.\n\n{table(rows)}\n"
    )


# What measures each part, and what writes its title and text.
PARTS = {
    "epoch": (epochs, of_epoch),
    "embedding": (embedding, of_embedding),
    "large": (large, of_large),
    "documents": (documents, of_documents),
}


def measure(part: str, texts: list[str], args: argparse.Namespace, save: Callable[[str, object], None]) -> None:
    """One part; what there is of it is saved, with the shape of its model, whenever there is more."""
    shape = args.documents_shape if part == "documents" else args.shape
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(folder, shape, args.device)
    PARTS[part][0](model, texts, args, partial(save, shape))


def section(kept: dict | None) -> str:
    """All of gpu.md."""
    head = "# On a GPU\n\nWritten by `python -m benchmarks.render` from `benchmarks/results/gpu.json`.\n"
    if kept is None:
        return f"{head}\nNot measured yet: `python -m benchmarks.gpu --data DATA` on a machine with a GPU.\n"
    parts = [head]
    for part, one in kept["result"].items():
        title, text = PARTS[part][1](one["result"])
        shape = f"A model of {one['shape']} (layers x width) with random weights, bfloat16."
        parts.append(f"## {title}\n\n{shape} {text}\n{source(one['environment'])}")
    return "\n".join(parts)


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="others are kept (default: all)"
    )
    args.add_argument("--shape", default="12x768", help="layers x width")
    args.add_argument("--texts", type=int, default=10_000)
    args.add_argument("--batch-size", type=int, default=200)
    args.add_argument("--groups", type=int, nargs="+", default=[2, 4, 8], help="beside the default")
    args.add_argument("--large", type=int, nargs="+", default=[4_096, 65_536], help="sizes of the large batch")
    args.add_argument("--documents", type=int, nargs="+", default=[256, 1_024], help="sizes of a step of `search`")
    args.add_argument("--documents-shape", default="6x384", help="about that of the package's model")
    args.add_argument("--mini-batch-size", type=int, default=1_024)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--backend", default="inductor", help="of torch.compile (default: %(default)s)")
    args.add_argument("--rounds", type=int, default=3)
    args = args.parse_args()
    path = args.output or RESULTS / "gpu.json"
    kept, _ = earlier(path, {})
    texts = paper_sentences(args.data)[: args.texts]
    for part in args.parts:

        def save(shape: str, result: object, part: str = part) -> None:
            kept[part] = {"shape": shape, "environment": environment(), "result": result}
            keep("gpu", kept, args.output)

        measure(part, texts, args, save)
    print(section(read(path)))


if __name__ == "__main__":
    main()
