"""Raw text in, a clean `datasets.Dataset` with one `text` column out, and a report of what was left behind."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_from_disk

from sentence_transformers_mirror.files import read_rows

_CHUNK = 10_000  # texts at a time as strings of Python


@dataclass(frozen=True)
class CorpusReport:
    """What became of the texts that were read.

    Attributes:
        read: Texts read (sentences, if documents were split).
        kept: Texts in the corpus.
        dropped: Number of texts left out, by reason: ``empty``, ``duplicate``, ``undecodable``, ``sampled out``.
    """

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)


def load_corpus(
    source: str | Path | Dataset | Iterable[str],
    *,
    column: str | None = None,
    max_texts: int | None = None,
    seed: int = 42,
    split_sentences: bool = False,
    language: str = "en",
) -> tuple[Dataset, CorpusReport]:
    """Read, clean, deduplicate and sample texts.

    White space is folded to single spaces; empty texts and exact repeats are dropped. Nothing is written: the corpus
    lives in memory, not in a cache.

    Args:
        source: A text file (a text a line, UTF-8, also gzipped), a csv, tsv, json, jsonl or parquet file, a folder
            written by ``Dataset.save_to_disk``, a ``datasets.Dataset`` or any iterable of strings.
        column: The column with the texts; may be left out if there is only one column of strings, or one named "text".
        max_texts: Sample so many, if there are more.
        seed: Of the sample.
        split_sentences: Whether to split each text into sentences.
        language: Of the sentences, an ISO 639-1 code; only for splitting.

    Returns:
        A dataset with the column ``text``, in the order of the source, and the report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is binary, has no such column, holds something else than strings, or no text at all.
    """
    dropped = {"empty": 0, "duplicate": 0, "undecodable": 0, "sampled out": 0}
    # Arrow holds a text in its bytes and eight more; as strings of Python a corpus is several times its file. Its
    # default pool keeps more for itself, most of all while texts are read.
    pool = pa.system_memory_pool()
    chunks: list[pa.Array] = []
    hashes = array("q")
    read = 0
    raw = _read(source, column, dropped)
    folded = (" ".join(text.split()) for text in (_split(raw, language) if split_sentences else raw))
    while texts := list(islice(folded, _CHUNK)):
        read += len(texts)
        kept = [text for text in texts if text]
        dropped["empty"] += len(texts) - len(kept)
        chunks.append(pa.array(kept, pa.large_string(), memory_pool=pool))
        hashes.extend(map(hash, kept))
    # Two texts of one hash, of 64 bits, are one text: in a corpus of a million the chance of an error is 3e-8.
    first = np.sort(np.unique(np.frombuffer(hashes, np.int64), return_index=True)[1])
    dropped["duplicate"] = len(hashes) - len(first)
    if not len(first):
        raise ValueError("The corpus has no text; give at least two texts that are not empty.")
    if max_texts is not None and len(first) > max_texts:
        dropped["sampled out"] = len(first) - max_texts
        first = first[sorted(random.Random(seed).sample(range(len(first)), max_texts))]
    wanted = np.zeros(len(hashes), bool)
    wanted[first] = True
    begin = 0
    for number, chunk in enumerate(chunks):
        chunks[number] = pc.filter(chunk, pa.array(wanted[begin : begin + len(chunk)]), memory_pool=pool)
        begin += len(chunk)
    report = CorpusReport(read + dropped["undecodable"], len(first), {k: n for k, n in dropped.items() if n})
    table = pa.table({"text": pa.chunked_array(chunks, pa.large_string())})
    if dropped["sampled out"]:
        table = table.combine_chunks(memory_pool=pool)  # each chunk has few rows left
    # Without a fingerprint of ours, datasets would make one from a copy of all texts.
    return Dataset(table, fingerprint=uuid4().hex), report


def _read(source: object, column: str | None, dropped: dict[str, int]) -> Iterator[str]:
    if isinstance(source, (str, Path)):
        yield from _read_path(Path(source), column, dropped)
    elif isinstance(source, (DatasetDict, IterableDatasetDict)):
        raise ValueError(f"This is a dictionary of datasets; pass one of its splits: {', '.join(source)}.")
    elif isinstance(source, (Dataset, IterableDataset)):
        names = source.column_names or list(next(iter(source)))
        name = _choose_column(names, _text_columns(source), column)
        yield from _strings((row[name] for row in source.select_columns([name])), f"column {name!r}")
    elif isinstance(source, Iterable):
        yield from _strings(source, "texts")
    else:
        kind = type(source).__name__
        raise ValueError(f"Texts must be a file, a datasets.Dataset or an iterable of strings, not {kind}.")


def _read_path(path: Path, column: str | None, dropped: dict[str, int]) -> Iterator[str]:
    if path.is_dir():
        if not (path / "dataset_info.json").exists():
            raise ValueError(f"{str(path)!r} is a folder without a saved dataset in it; name a text file.")
        yield from _read(load_from_disk(str(path)), column, dropped)
        return
    undecodable: list[int] = []
    rows = read_rows(path, undecodable)
    if (first := next(rows, None)) is not None:
        name = _choose_column(list(first), [key for key, value in first.items() if isinstance(value, str)], column)
        yield from _strings((row[name] for row in chain([first], rows)), f"column {name!r}")
    dropped["undecodable"] = len(undecodable)


def _text_columns(dataset: Dataset | IterableDataset) -> list[str]:
    features = dataset.features or {}
    return [name for name, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")]


def _choose_column(names: list[str], texts: list[str], column: str | None) -> str:
    if column is not None:
        if column not in names:
            raise ValueError(f"There is no column {column!r}; the columns are {', '.join(names)}.")
        return column
    if "text" in names:
        return "text"
    if len(texts) == 1:
        return texts[0]
    raise ValueError(f"Which column holds the texts? Name it with column=, one of {', '.join(texts or names)}.")


def _strings(values: Iterable[object], what: str) -> Iterator[str]:
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"Row {index} of {what} is {value!r:.50}, not a string; leave such rows out.")
        yield value


def _split(texts: Iterable[str], language: str) -> Iterator[str]:
    from sentencex import segment

    for text in texts:
        yield from segment(language, text)
