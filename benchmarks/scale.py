"""What work beyond one machine costs: workers, Ray, memory of an index of shards; and what 10**9 texts would take.

python -m benchmarks.scale [--texts N] [--rows N ...] [--parts PART ...]

- ``workers``: `encode_shards` by 1, 2 and 4 processes of the machine at hand, with the embedded model. The rate counts
  from the first shards to the last, so that the start of a worker, which is told too, is not in it.
- ``ray``: the time from shard to shard of files of one text, in this process and through an actor; the rest is Ray's.
- ``memory``: what is not mapped while `SearchIndex.from_shards` streams so many rows of 16 numbers from disk to disk,
  and at the first look-up by id; sampled every 10 ms in a process of its own. Beside it what FAISS takes by itself
  to train the same structure on as many rows and to add all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, alone, earlier, keep, parser, read
from benchmarks.markdown import source, table
from benchmarks.scaling import sentences
from sentence_transformers_mirror import SearchIndex, embedded_model_path, encode_shards
from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.search.shards import KEY, shard_schema
from sentence_transformers_mirror.search.structure import load_faiss

PARTS = ["workers", "ray", "memory"]
WORKERS = [1, 2, 4]
FILES = 32  # shards that are encoded
DIMENSION = 16
KINDS = ["flat", "ivf-sq8"]
PRICES = {"core": 0.04, "gpu": 3.0}  # dollars an hour, what clouds ask for about
RAY_FILES = 40


def workers(count: int, texts: int) -> dict[str, float]:
    """Encode texts by so many workers, each with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        lines = list(sentences(texts))
        for number in range(FILES):
            Path(folder, f"{number:02d}.txt").write_text("\n".join(lines[number::FILES]), encoding="utf-8")
        start = time.time()
        shards = encode_shards(embedded_model_path(), f"{folder}/*.txt", f"{folder}/out", workers=count, threads=1)
        seconds = time.time() - start
        ends = sorted(os.stat(shard).st_mtime for shard in shards)
    made = ends[-1] - ends[count - 1]
    return {
        "workers": count,
        "texts": texts,
        "texts/s": texts / FILES * (FILES - count) / made,
        "seconds before the first shard": ends[0] - start,
        "seconds in all": seconds,
    }


def overhead(engine: str) -> float:
    """Median seconds from shard to shard, of files of one text."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(RAY_FILES):
            Path(folder, f"{number:02d}.txt").write_text("A text.", encoding="utf-8")
        options = {"workers": 1, "threads": 1, "engine": engine}
        shards = encode_shards(embedded_model_path(), f"{folder}/*.txt", f"{folder}/out", **options)
        ends = sorted(os.stat(shard).st_mtime for shard in shards)
    return statistics.median(after - before for before, after in pairwise(ends))


def write_shards(folder: Path, rows: int, each: int = 250_000) -> None:
    """Shards of random vectors and short texts."""
    rng = np.random.default_rng(0)
    told = {"fingerprint": "v3-random", "model": "random", "dimensions": None}
    schema = shard_schema(DIMENSION).with_metadata({KEY: json.dumps(told)})
    for start in range(0, rows, each):
        with pq.ParquetWriter(folder / f"{start:09d}.parquet", schema) as writer:
            for low in range(start, min(start + each, rows), 32_768):
                ids = range(low, min(low + 32_768, start + each, rows))
                vectors = rng.normal(size=(len(ids), DIMENSION)).astype(np.float32)
                lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
                columns = [list(map(str, ids)), [f"text {item % 1000}" for item in ids], [None] * len(ids)]
                writer.write_table(pa.table([*columns, lists], schema=schema))


def own_memory() -> int:
    """Bytes of this process that lie in no file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


@contextmanager
def watched() -> Iterator[Callable[[], int]]:
    """The largest growth of `own_memory` so far, sampled every 10 ms."""
    before = peak = own_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        done.set()
        thread.join()


def memory(folder: str, kind: str) -> dict[str, object]:
    """Stream shards into an index; in a process of its own."""
    load_faiss()
    with watched() as peak:
        start = time.perf_counter()
        index = SearchIndex.from_shards(folder, path=f"{folder}-{kind}", kind=kind)
        seconds = time.perf_counter() - start
        assert random.Random(0).randrange(len(index)) in index
    return {
        "kind": kind,
        "rows": len(index),
        "seconds": seconds,
        "peak, bytes": peak(),
        "factory": index.facts()["structure"].get("factory"),
    }


def faiss_alone(folder: str, factory: str | None) -> int:
    """Bytes that FAISS takes to make the structure over the vectors of an index; in a process of its own."""
    if factory is None:
        return 0
    faiss = load_faiss()
    vectors = np.load(next(Path(folder).glob("vectors-*.npy")), mmap_mode="r")
    with watched() as peak:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        wanted = min(max(100_000, 40 * faiss.extract_index_ivf(index).nlist), len(vectors))
        index.train(vectors[np.linspace(0, len(vectors) - 1, wanted).astype(int)])
        for start in range(0, len(vectors), 65_536):
            index.add(vectors[start : start + 65_536])
    return peak()


def measure(texts: int, rows: list[int], kinds: list[str], result: dict, parts: list[str]) -> dict:
    """Measure some parts anew, and keep what is known of the others."""
    result = {"workers": [], "memory": [], "ray": None, **result, **{part: [] for part in parts if part != "ray"}}
    result["memory"] = [point for point in result["memory"] if "FAISS alone, bytes" in point]
    for count in WORKERS if "workers" in parts else []:
        result["workers"].append(alone(workers, count, texts))
        print(result["workers"][-1], flush=True)
    if "ray" in parts and importlib.util.find_spec("ray") is not None:
        result["ray"] = {"shards": RAY_FILES, **{name: alone(overhead, name) for name in ("local", "ray")}}
        print(result["ray"], flush=True)
    for count in rows if "memory" in parts else []:
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "shards").mkdir()
                write_shards(Path(folder, "shards"), count)
                found = alone(memory, f"{folder}/shards", kind)
                found["FAISS alone, bytes"] = alone(faiss_alone, f"{folder}/shards-{kind}", found["factory"])
                result["memory"].append(found)
                print(result["memory"][-1], flush=True)
    result["commands"] = {**result.get("commands", {}), **dict.fromkeys(parts, environment()["command"])}
    gpu = RESULTS / "gpu.json"
    result["GPU, texts/s"] = read(gpu)["result"]["embedding"]["result"]["ours"] if gpu.exists() else None
    return result


def slopes(points: list[dict]) -> list[dict[str, object]]:
    """Bytes a row between the two largest sizes of each kind: from there on no part of the words grows any more."""
    found = []
    for kind in KINDS:
        of_kind = [point for point in points if point["kind"] == kind]
        if len(of_kind) > 1:
            first, last = of_kind[-2:]
            rows = last["rows"] - first["rows"]
            peak, faiss = ((last[key] - first[key]) / rows for key in ("peak, bytes", "FAISS alone, bytes"))
            found.append(
                {"kind": kind, "peak": f"{peak:.1f}", "FAISS alone": f"{faiss:.1f}", "the rest": f"{peak - faiss:.1f}"}
            )
    return found


def costs(result: dict) -> list[dict[str, str]]:
    """Hours and dollars of embedding 10**8 and 10**9 texts, from measured rates."""
    rates = [
        ("a CPU core, the embedded model (6 layers x 384)", point["texts/s"], PRICES["core"])
        for point in result["workers"]
        if point["workers"] == 1
    ]
    if result["GPU, texts/s"]:
        rates.append(("an H200, 12 layers x 768", result["GPU, texts/s"], PRICES["gpu"]))
    rows = []
    for name, rate, price in rates:
        for power in (8, 9):
            hours = 10**power / rate / 3600
            rows.append(
                {
                    "on": name,
                    "texts/s": f"{rate:,.0f}",
                    "texts": f"10^{power}",
                    "hours of one": f"{hours:,.1f}",
                    "hours of 64": f"{hours / 64:,.1f}",
                    "dollars": f"{hours * price:,.0f}",
                }
            )
    return rows


def section(kept: dict) -> str:
    result = kept["result"]
    rates = [
        {
            "workers": point["workers"],
            "texts/s": f"{point['texts/s']:,.0f}",
            "seconds before the first shard": f"{point['seconds before the first shard']:.1f}",
        }
        for point in result["workers"]
    ]
    points = [
        {
            "kind": point["kind"],
            "rows": f"{point['rows']:,}",
            "seconds": f"{point['seconds']:.1f}",
            "peak, MB": f"{point['peak, bytes'] / 1e6:,.0f}",
            "FAISS alone, MB": f"{point['FAISS alone, bytes'] / 1e6:,.0f}",
        }
        for point in result["memory"]
    ]
    parts = ["## Beyond one machine", ""]
    if rates:
        parts += [
            f"`encode_shards` over {FILES} files of made-up sentences with the embedded model, one thread a worker. "
            "The rate leaves out what comes before the first shards: the import of the libraries and the model.",
            "",
            table(rates),
        ]
    if result["ray"]:
        extra = 1e3 * (result["ray"]["ray"] - result["ray"]["local"])
        parts += [f"Ray adds {extra:.1f} ms a shard, seen on {result['ray']['shards']} files of one text.", ""]
    parts += [
        "### An index of many shards",
        "",
        f"`SearchIndex.from_shards` from disk to disk, {DIMENSION} numbers a vector. The peak is what lies in no "
        "file, on top of what the process had before, until a first id was looked up.",
        "",
        table(points) if points else "",
    ]
    if found := slopes(result["memory"]):
        parts += [
            "Bytes a row between the two largest. Up to 1.7 million of these rows, which are 16 MiB of text, the "
            "words that are counted at a time grow with them:",
            "",
            table(found),
        ]
    parts += [
        "### What a hundred million and a billion texts cost",
        "",
        "Computed from rates that were measured, of sentences of about 15 words. Assumed: machines share nothing, so "
        "that many take as long as their share; a core for "
        f"{PRICES['core']} dollars an hour, and a GPU for {PRICES['gpu']:.0f}; nothing for reading and writing, which "
        "is small beside it. Longer texts and larger models take longer in proportion to tokens and weights.",
        "",
        table(costs(result)),
        "Commands that measured the parts: "
        + "; ".join(f"`{command}`" for command in dict.fromkeys(result.get("commands", {}).values()))
        + ".",
        "",
        source(kept["environment"], of_the_embedded=True),
    ]
    return "\n".join(parts)


def main() -> None:
    args = parser(__doc__)
    args.formatter_class = argparse.RawDescriptionHelpFormatter
    args.add_argument("--texts", type=int, default=20_000, help="that are encoded (default: %(default)s)")
    args.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000], help="of the indexes")
    args.add_argument("--kinds", nargs="+", default=KINDS, help="of the indexes")
    args.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="measured anew; others are kept")
    args = args.parse_args()
    known, _ = earlier(args.output or RESULTS / "scale.json", {})
    print(section(keep("scale", measure(args.texts, args.rows, args.kinds, known, args.parts), args.output)))


if __name__ == "__main__":
    main()
