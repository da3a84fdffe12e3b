"""One epoch on a GPU, a batch of 65,536, and embedding, for a model of BERT-base's shape.

Weights are random, which timing does not mind; texts are the paper's 10,000 sentences. The epoch is timed after a
warm-up step, from strings to updated weights, all contestants in bfloat16 and on the same batches in one process:

- ``ours``: one column through `MirrorLoss` with its defaults.
- ``host``: `MultipleNegativesRankingLoss` on two identical columns, the host's documented SimCSE recipe.
- ``paper``: as released: both views padded to 50 tokens, two forward passes, `NTXentLoss` of pytorch-metric-learning.

The large batch is one step of `CachedMirrorLoss`. Embedding is `embed`, which `SearchIndex.build` uses, beside the
host's `encode` with its defaults. Runs on a CPU, too, to be tried.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time

import torch
from common import add_data, keep, paper_sentences, parser
from sentence_transformers import SentenceTransformer
from tuning_speed import Contestant, host, on_device, ours, paper, random_model, seconds

from sentence_transformers_mirror import CachedMirrorLoss
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.embedding import embed


def epoch(contestant: Contestant, batches: list[list[str]]) -> float:
    """Seconds of all batches, after a warm-up step on the first."""
    contestant.step(batches[0])
    return seconds(contestant.model, lambda: [contestant.step(batch) for batch in batches])


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


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--shape", default="12x768", help="layers x width")
    args.add_argument("--texts", type=int, default=10_000)
    args.add_argument("--batch-size", type=int, default=200)
    args.add_argument("--large", type=int, nargs="+", default=[4_096, 65_536], help="sizes of the large batch")
    args.add_argument("--mini-batch-size", type=int, default=1_024)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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
    times: dict[str, list[float]] = {}
    for turn, (name, make) in itertools.product(
        range(args.rounds), {"ours": ours, "host": host, "paper": paper}.items()
    ):
        times.setdefault(name, []).append(epoch(Contestant(model, optimizer, make(model), bf16), batches))
        print(f"epoch {turn + 1}, {name}: {times[name][-1]:.2f} s", flush=True)
    rows = [
        {
            "contestant": name,
            "seconds": round(statistics.median(found), 2),
            "times ours": round(statistics.median(a / b for a, b in zip(found, times["ours"], strict=True)), 2),
        }
        for name, found in times.items()
    ]
    result = {
        "shape": args.shape,
        "precision": "bf16" if bf16 else "fp32",
        "texts": len(sentences),
        "steps": len(batches),
        "epoch": rows,
        "embedding, texts a second": embedding(model, sentences, args.rounds, bf16),
        # The strings are short, and different; the paper's sentences are too few.
        "large batch": [
            large_batch(model, [f"name {number} of {size}" for number in range(size)], args.mini_batch_size, bf16)
            for size in args.large
        ],
    }
    print(result)
    keep("gpu", result, args.output)


if __name__ == "__main__":
    main()
