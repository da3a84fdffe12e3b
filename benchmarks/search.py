"""Searching: what an index costs beside FAISS called directly, and beside what people use today.

Vectors are made here: texts of real corpora lie in clusters of very different sizes and near a subspace, so these do.
Ours and FAISS answer the same queries in turn, so that a noisy machine is noisy for both; times are medians.

- ``ours``: `SearchIndex.search` with the text of every hit read.
- ``ours, not looked at``: the same without reading texts.
- ``FAISS``: the structure that our index chose, called directly: row numbers and scores, no texts.
- ``semantic_search_faiss``: of sentence-transformers, exact, with an index that is built once; row numbers.
- ``datasets``: `Dataset.add_faiss_index`, exact, with texts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from datasets import Dataset
from sentence_transformers.util.quantization import semantic_search_faiss

from benchmarks.common import RESULTS, alone, keep, parser, peak_memory
from benchmarks.drawing import panels
from benchmarks.markdown import source, table
from sentence_transformers_mirror import SearchIndex
from sentence_transformers_mirror.search.structure import parameters_for

DIMENSION = 384
BATCHES = (1, 32, 1_000)


def structured(rows: int, seed: int = 0) -> np.ndarray:
    """Unit vectors, shape (rows, 384): clusters of Zipf sizes in a subspace of 96 dimensions, and noise around it."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(0)  # the same clusters for rows and queries
    clusters, rank = 2_000, 96
    centres = world.normal(size=(clusters, rank)).astype(np.float32)
    spread = world.uniform(0.3, 1.0, size=(clusters, 1)).astype(np.float32)
    basis = world.normal(size=(rank, DIMENSION)).astype(np.float32) / np.sqrt(rank)
    sizes = 1 / np.arange(1, clusters + 1) ** 0.8
    made = np.empty((rows, DIMENSION), np.float32)
    for start in range(0, rows, 50_000):
        block = made[start : start + 50_000]
        owners = rng.choice(clusters, len(block), p=sizes / sizes.sum())
        inner = centres[owners] + spread[owners] * rng.normal(size=(len(block), rank)).astype(np.float32)
        block[:] = inner @ basis + 0.3 * rng.normal(size=block.shape).astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return made


def interleaved(
    calls: dict[str, Callable[[np.ndarray], object]], queries: np.ndarray, batch: int, seconds: float
) -> dict[str, float]:
    """Median seconds of each call, all made in turn until the time is up, at least six times.

    Each turn asks other queries and lets another one begin, who finds the vectors out of the processor's caches.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    end, turn = time.perf_counter() + seconds, 0
    while turn < 6 or time.perf_counter() < end:
        first = turn * batch % (len(queries) - batch + 1)
        asked = np.ascontiguousarray(queries[first : first + batch])
        for name in order:
            start = time.perf_counter()
            calls[name](asked)
            times[name].append(time.perf_counter() - start)
        order.append(order.pop(0))
        turn += 1
    return {name: statistics.median(found) for name, found in times.items()}


def measure(rows: int, kind: str, seconds: float) -> dict:
    """Build, open and search one index, in a process of its own so that its peak of memory is its own."""
    vectors, queries = structured(rows), structured(max(BATCHES), seed=1)
    texts = (f"entry number {number} of the benchmark" for number in range(rows))
    before = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        index = SearchIndex.from_vectors(vectors, texts, kind=kind, path=folder)
        build = time.perf_counter() - start
        peak = peak_memory()
        start = time.perf_counter()
        index = SearchIndex.open(folder)
        opened = time.perf_counter() - start
        start = time.perf_counter()
        index.search(queries[0])
        first = time.perf_counter() - start
        disk = sum(file.stat().st_size for file in Path(folder).iterdir())
        structure = index._snapshot.loaded
        if structure is None:
            direct = faiss.IndexFlatIP(DIMENSION)
            direct.add(vectors)
            parameters = None
        else:
            direct, parameters = structure.index, parameters_for(structure.index, structure.effort, {})
        depth = 1 if structure is None else structure.depth

        def read(asked: np.ndarray) -> list:
            return [[hit.text for hit in hits] for hits in index.search(asked)]

        calls = {
            "ours": read,
            "ours, not looked at": index.search,
            "FAISS": lambda asked: direct.search(asked, 10 * depth, params=parameters),
        }
        exact = faiss.knn(queries, vectors, 10, faiss.METRIC_INNER_PRODUCT)[1]
        found = [[hit.id for hit in hits] for hits in index.search(queries)]
        recall = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact.tolist(), strict=True)]))
        direct.search(queries, 10, params=parameters)  # what is timed below is not the first to touch its memory
        rows_of_table = [{"batch": batch, **interleaved(calls, queries, batch, seconds)} for batch in BATCHES]
        return {
            "rows": rows,
            "kind": index.facts()["structure"]["kind"],
            "asked": kind,
            "describe": index.describe(),
            "build": build,
            "open": opened,
            "first search": first,
            "peak MiB over the vectors given": (peak - before) / 2**20,
            "disk MiB": disk / 2**20,
            "recall@10": recall,
            "batches": rows_of_table,
        }


def others(rows: int, seconds: float) -> dict:
    """What people use today, on the same vectors and queries, exact."""
    vectors, queries = structured(rows), structured(max(BATCHES), seed=1)
    _, _, corpus = semantic_search_faiss(
        queries[:1], corpus_embeddings=vectors, top_k=10, rescore=False, exact=True, output_index=True
    )
    texts = [f"entry number {number} of the benchmark" for number in range(rows)]
    dataset = Dataset.from_dict({"text": texts})
    dataset.add_faiss_index_from_external_arrays(vectors, "vectors", metric_type=faiss.METRIC_INNER_PRODUCT)
    calls = {
        "semantic_search_faiss": lambda asked: semantic_search_faiss(
            asked, corpus_index=corpus, top_k=10, rescore=False
        ),
        "datasets": lambda asked: dataset.get_nearest_examples_batch("vectors", asked, 10),
    }
    found = [{"batch": batch, **interleaved(calls, queries, batch, seconds)} for batch in BATCHES]
    return {"rows": rows, "batches": found}


def section(kept: dict) -> str:
    result = kept["result"]
    parts = [
        "## Searching",
        "",
        "Milliseconds a call, medians, ten hits a query, 384 dimensions. Ours and FAISS answer the same queries in "
        "turn; FAISS is the structure that the index chose, called directly, and gives row numbers without texts. "
        "What is on top is that of a search before a text is looked at; texts are read when they are.",
        "",
    ]
    rows = []
    for index in result["indexes"]:
        for batch in index["batches"]:
            extra = batch["ours, not looked at"] - batch["FAISS"]
            rows.append(
                {
                    "rows": f"{index['rows']:,}",
                    "kind": f"{index['kind']} (asked: {index['asked']})",
                    "batch": batch["batch"],
                    "ours, texts read": f"{1e3 * batch['ours']:.3f}",
                    "ours, not looked at": f"{1e3 * batch['ours, not looked at']:.3f}",
                    "FAISS": f"{1e3 * batch['FAISS']:.3f}",
                    "on top": f"{1e6 * extra:+.0f} us, {extra / batch['FAISS']:+.1%}",
                    "recall@10": f"{index['recall@10']:.3f}",
                }
            )
    parts.append(table(rows))
    rows = [
        {
            "rows": f"{index['rows']:,}",
            "kind": index["kind"],
            "build, s": f"{index['build']:.1f}",
            "open, ms": f"{1e3 * index['open']:.1f}",
            "first search, ms": f"{1e3 * index['first search']:.1f}",
            "peak memory beside the vectors, MiB": f"{index['peak MiB over the vectors given']:,.0f}",
            "on disk, MiB": f"{index['disk MiB']:,.0f}",
        }
        for index in result["indexes"]
    ]
    parts.append(table(rows))
    rows = [
        {"rows": f"{one['rows']:,}", **{k: f"{1e3 * v:.3f}" if k != "batch" else v for k, v in batch.items()}}
        for one in result["others"]
        for batch in one["batches"]
    ]
    parts.append("![Query time, build time and memory by number of rows](results/search.svg)\n")
    parts.append("What people use today, exact, milliseconds a call:\n\n" + table(rows))
    parts.append(source(kept["environment"]))
    return "\n".join(parts)


def plot(kept: dict, folder: Path = RESULTS) -> None:
    """Query time, build time and memory against the number of rows, both axes logarithmic."""
    result, titles = kept["result"], ("ms for one query", "s to build", "MiB")
    with panels(folder / "search.svg", 11, "rows", titles) as (query, build, memory):
        kinds = dict.fromkeys(index["asked"] for index in result["indexes"])
        for number, asked in enumerate(kinds):
            mine = [index for index in result["indexes"] if index["asked"] == asked]
            rows = [index["rows"] for index in mine]
            single = [next(batch for batch in index["batches"] if batch["batch"] == 1) for index in mine]
            query.plot(rows, [1e3 * one["ours"] for one in single], f"C{number}o-", label=f"ours, {asked}")
            query.plot(rows, [1e3 * one["FAISS"] for one in single], f"C{number}x--", label=f"FAISS under it, {asked}")
            build.plot(rows, [index["build"] for index in mine], f"C{number}o-", label=asked)
            memory.plot(rows, [index["disk MiB"] for index in mine], f"C{number}o-", label=f"{asked}, on disk")
            beside = [max(index["peak MiB over the vectors given"], 0.1) for index in mine]
            memory.plot(rows, beside, f"C{number}x--", label=f"{asked}, memory beside the vectors")
        rows = [one["rows"] for one in result["others"]]
        for number, name in enumerate(("semantic_search_faiss", "datasets"), start=len(kinds)):
            single = [next(batch for batch in one["batches"] if batch["batch"] == 1) for one in result["others"]]
            query.plot(rows, [1e3 * one[name] for one in single], f"C{number}s:", label=name)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--kinds", nargs="+", default=["auto", "flat", "hnsw"])
    arguments.add_argument("--seconds", type=float, default=10, help="per contest (default: %(default)s)")
    args = arguments.parse_args()
    result = {
        "indexes": [alone(measure, size, kind, args.seconds) for size in args.sizes for kind in args.kinds],
        "others": [alone(others, size, args.seconds) for size in args.sizes],
    }
    print(section(keep("search", result, args.output)))


if __name__ == "__main__":
    main()
