"""Does the cost of everything grow with the work and nothing else? Time and peak memory by size.

Every point is a process of its own, so that its peak of memory is its own. The model is small and random (one layer of
width 64), so that what is not the model shows; texts are made up, of the length of the paper's sentences, and are read
from a file. The exponent is the slope between the two largest sizes on logarithmic axes: 1 is in proportion. Memory is
counted from where it was after the imports and the model.

- ``tune``: `mirror_tune` from a file, one epoch, batches of 200, in the precision that the machine is best at.
- ``tune_fp32``: the same in float32.
- ``batch``: one step of `CachedMirrorLoss`; its similarities are the square of the batch.
- ``index``: `SearchIndex.build` from a file, exact.
- ``search``: one query of that index.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

from benchmarks.common import RESULTS, alone, keep, peak_memory, read
from benchmarks.drawing import panels
from benchmarks.markdown import source, table
from benchmarks.tuning_speed import random_model
from sentence_transformers_mirror import CachedMirrorLoss, SearchIndex, _host, mirror_tune

SHAPE = "1x64"
# What is measured at which sizes.
SIZES = {
    "tune": [1_000, 10_000, 100_000, 1_000_000],
    "tune_fp32": [1_000, 10_000, 100_000, 1_000_000],
    "batch": [64, 1_024, 8_192, 65_536],
    "index": [1_000, 10_000, 100_000, 1_000_000],
    "search": [1_000, 10_000, 100_000, 1_000_000],
}
QUERIES = 200
WORDS = {
    "tune": ("texts", "`mirror_tune` from a file, one epoch, batches of 200"),
    "tune_fp32": ("texts", "the same in float32, where oneDNN does not keep something for each new size of a group"),
    "batch": ("texts in the batch", "one step of `CachedMirrorLoss`; its similarities grow with the square"),
    "index": ("texts", "`SearchIndex.build` from a file, exact"),
    "search": ("texts", "one query of that index, the texts of ten hits read"),
}
HEAD = """## How cost grows

A random model of one layer of width 64, so that what is not the model shows. Memory is on top of what the process had
after its imports. Exponents are slopes between the two largest sizes on logarithmic axes: 1 is in proportion.

![Time and memory by size](results/scaling.svg)
"""


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """Distinct texts of 4 to 16 words, 10 on average."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(5_000)]
    for number in range(count):
        yield f"{' '.join(draw.choices(words, k=draw.randint(3, 15)))} {number}"


def measure(what: str, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(f"{folder}/model", SHAPE, "cpu")
        file = Path(folder, "texts.txt")
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{text}\n" for text in sentences(size))
        before = peak_memory()
        if what.startswith("tune"):
            float32 = mock.patch.object(_host, "has_native_bf16", return_value=False)
            start = time.perf_counter()
            with float32 if what == "tune_fp32" else nullcontext():
                mirror_tune(model, file, max_texts=size, guard=False)
            seconds = time.perf_counter() - start
        elif what == "batch":
            loss = CachedMirrorLoss(model.train(), mini_batch_size=64)
            features = model.preprocess(list(sentences(size)))
            start = time.perf_counter()
            loss([features]).backward()
            seconds = time.perf_counter() - start
        else:
            start = time.perf_counter()
            index = SearchIndex.build(model, file, kind="flat", path=f"{folder}/index")
            seconds = time.perf_counter() - start
            if what == "search":
                times = []
                for query in sentences(QUERIES, seed=1):
                    vector = model.encode(query, normalize_embeddings=True)
                    start = time.perf_counter()
                    [hit.text for hit in index.search(vector)]
                    times.append(time.perf_counter() - start)
                seconds = statistics.median(times)
        return {
            "size": size,
            "seconds": seconds,
            "peak, MB": None if what == "search" else (peak_memory() - before) / 1e6,  # that is of building
            "texts on disk, MB": file.stat().st_size / 1e6,
        }


def exponents(points: list[dict[str, float]]) -> dict[str, float]:
    """Slopes of time and memory between the two largest sizes."""
    if len(points) < 2:
        return {}
    small, large = points[-2:]
    growth = math.log(large["size"] / small["size"])
    return {
        key: math.log(max(large[key], 1e-9) / max(small[key], 1e-9)) / growth
        for key in ("seconds", "peak, MB")
        if None not in (small[key], large[key])
    }


def section(what: str, kept: dict) -> str:
    """Of one part; the first has the head of all."""
    result = kept["result"]
    size, words = WORDS[what]
    rows = [
        {
            size: f"{point['size']:,}",
            "seconds": f"{point['seconds']:.4g}",
            "peak memory, MB": "" if point["peak, MB"] is None else f"{point['peak, MB']:,.0f}",
            "texts on disk, MB": f"{point['texts on disk, MB']:.2f}",
        }
        for point in result["points"]
    ]
    slopes = ", ".join(f"{key.split(',')[0]} {value:.2f}" for key, value in result["exponents"].items())
    head = f"{HEAD}\n" if what == next(iter(SIZES)) else ""
    part = f"{words[0].upper()}{words[1:]}. Exponents: {slopes or 'not measured'}.\n\n{table(rows)}"
    return f"{head}{part}\n{source(kept['environment'])}"


def plot(folder: Path = RESULTS) -> None:
    """Time and memory against size, all axes logarithmic, with the fitted slopes in the legend."""
    paths = {what: folder / f"scaling_{what}.json" for what in SIZES}
    result = {what: read(path)["result"] for what, path in paths.items() if path.exists()}
    with panels(folder / "scaling.svg", 9, "texts", ("s", "MB")) as drawn:
        for axes, key in zip(drawn, ("seconds", "peak, MB"), strict=True):
            for what, one in result.items():
                points = [point for point in one["points"] if point[key] is not None]
                if points:
                    slope = one["exponents"].get(key)
                    label = what if slope is None else f"{what}: exponent {slope:.2f}"
                    axes.plot([point["size"] for point in points], [point[key] for point in points], "o-", label=label)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--output", type=Path, help="folder to write the JSON files in (default: benchmarks/results/)")
    args.add_argument("--what", nargs="+", default=list(SIZES), choices=list(SIZES))
    args.add_argument("--largest", type=int, help="leave larger sizes out, for a quick look")
    args = args.parse_args()
    for what in args.what:
        points = []
        for size in SIZES[what]:
            if args.largest is None or size <= args.largest:
                points.append(alone(measure, what, size))
                print(what, points[-1], flush=True)
        name = f"scaling_{what}"
        result = {"points": points, "exponents": exponents(points)}
        print(section(what, keep(name, result, args.output and args.output / f"{name}.json")))


if __name__ == "__main__":
    main()
