"""What the benchmarks share: the labelled sets, the machine a number was measured on, and where results are kept."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ["sentence-transformers-mirror", "sentence-transformers", "transformers", "torch", "datasets", "faiss-cpu"]


def parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, help="where to write the JSON (default: benchmarks/results/)")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("ST_MIRROR_DATA"),
        required="ST_MIRROR_DATA" not in os.environ,
        help="folder of the labelled sets (default: $ST_MIRROR_DATA)",
    )


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header and no quoting, gzipped or not."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def paper_sentences(data: Path) -> list[str]:
    """The 10,000 sentences that the paper tunes on."""
    return lines(data / "corpus/mirror_corpus/stsbenchmark_train_10k_sents_random_sampled.txt.gz")


def paper_words(data: Path) -> list[str]:
    """The 10,000 words that the paper tunes on."""
    return lines(data / "corpus/mirror_corpus/en_words_top_10k.txt.gz")


def environment() -> dict[str, str]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "command": "python " + " ".join([os.path.relpath(sys.argv[0]), *_public(sys.argv[1:])]),
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _public(arguments: list[str]) -> list[str]:
    """Arguments as anybody would type them: the folder of the data is another one on each machine."""
    return ["DATA" if i and arguments[i - 1] == "--data" else argument for i, argument in enumerate(arguments)]


def keep(name: str, result: object, output: Path | None) -> None:
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment(), "result": result}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
