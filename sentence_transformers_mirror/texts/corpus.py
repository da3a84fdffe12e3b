"""Raw text in, a clean `datasets.Dataset` with a `text` column out, and a report of what was left behind."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.texts import sentences
from sentence_transformers_mirror.texts.files import (
    check_column,
    column_names,
    is_table,
    read_rows,
    refuse_no_texts,
    string_columns,
    text_column,
)

_CHUNK = 10_000  # texts at a time as strings of Python


@dataclass(frozen=True)
class CorpusReport:
    """What became of the texts that were read.

    Attributes:
        read: Number of texts that were read (of sentences, if documents were split).
        kept: Number of texts in the corpus.
        dropped: Number of texts left out, by reason: ``empty``, ``duplicate``, ``undecodable``, ``sampled out``.

    Example:
        >>> from sentence_transformers_mirror import load_corpus
        >>> dataset, report = load_corpus(["It rains.", "It  rains.", "", "The sun is out."])
        >>> report.read, report.kept, report.dropped["duplicate"]
        (4, 2, 1)
    """

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)


def load_corpus(
    source: str | Path | Dataset | Iterable[str | tuple[str, str]],
    *,
    column: str | None = None,
    title: str | None = None,
    max_texts: int | None = None,
    seed: int = 42,
    split_sentences: bool = False,
    language: str = "en",
) -> tuple[Dataset, CorpusReport]:
    """Read, clean, deduplicate and sample texts.

    White space is folded to single spaces; empty texts and exact repeats are dropped. Nothing is written: the corpus
    lives in memory, not in a cache.

    Args:
        source: A text file (a text a line, UTF-8, also gzipped), a csv, tsv, json, jsonl (ndjson) or parquet file, a
            folder written by ``Dataset.save_to_disk``, a ``datasets.Dataset`` or any iterable of strings, or of pairs
            of title and text. A Markdown, reStructuredText or HTML file, or a folder of such files, gives a text for
            each heading, which is its title.
        column: The column with the texts; may be left out if there is only one column of strings, or one named "text".
        title: The column with their titles, which may be empty; by default one named "title", if there is one.
        max_texts: Largest number of texts; more are sampled.
        seed: Seed for sampling.
        split_sentences: Whether to split each text into sentences.
        language: The language of the sentences, an ISO 639-1 code; it matters for splitting only.

    Returns:
        A dataset with the column ``text``, and ``title`` where a text has one, in the order of the source; and the
        report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is a dictionary or a data frame (pass the list of its texts) or binary, has no such
            column, holds something else than strings, or no text at all.

    Example:
        >>> from sentence_transformers_mirror import load_corpus
        >>> dataset, report = load_corpus(["It rains.", "It  rains.", "", "The sun is out."])
        >>> dataset["text"][:]
        ['It rains.', 'The sun is out.']
    """
    if max_texts is not None:
        max_texts = whole_number(max_texts, "max_texts", 1)
    dropped = {"empty": 0, "duplicate": 0, "undecodable": 0, "sampled out": 0}
    # Arrow holds a text in its bytes and eight more; as strings of Python a corpus is several times its file. Its
    # default pool keeps more for itself, most of all while texts are read.
    pool = pa.system_memory_pool()
    chunks: list[pa.Table] = []
    hashes = array("q")
    read, titled = 0, False
    raw = _read(source, column, title, dropped)
    if split_sentences:
        raw = (("", sentence) for _, text in raw for sentence in sentences.split_sentences(text, language))
    folded = ((" ".join(heading.split()), " ".join(text.split())) for heading, text in raw)
    while rows := list(islice(folded, _CHUNK)):
        read += len(rows)
        kept = [(heading, text) for heading, text in rows if text]
        dropped["empty"] += len(rows) - len(kept)
        titles, texts = zip(*kept, strict=True) if kept else ((), ())
        titled = titled or any(titles)
        columns = (pa.array(values, pa.large_string(), memory_pool=pool) for values in (titles, texts))
        chunks.append(pa.table(list(columns), ["title", "text"]))
        hashes.extend(hash(row if row[0] else row[1]) for row in kept)
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
    names = ["title", "text"] if titled else ["text"]
    begin = 0
    for number, chunk in enumerate(chunks):
        rows_wanted = pa.array(wanted[begin : begin + len(chunk)])
        chunks[number] = pa.table({name: pc.filter(chunk[name], rows_wanted, memory_pool=pool) for name in names})
        begin += len(chunk)
    report = CorpusReport(read + dropped["undecodable"], len(first), {k: n for k, n in dropped.items() if n})
    table = pa.concat_tables(chunks)
    if dropped["sampled out"]:
        table = table.combine_chunks(memory_pool=pool)  # each chunk has few rows left
    # Without a fingerprint of ours, datasets would make one from a copy of all texts.
    return Dataset(table, fingerprint=uuid4().hex), report


def _read(source: Any, column: str | None, title: str | None, dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Titles, empty where there is none, and texts."""
    if isinstance(source, (str, Path)):
        yield from _read_path(Path(source), column, title, dropped)
    elif isinstance(source, (DatasetDict, IterableDatasetDict)):
        raise ValueError(f"This is a dictionary of datasets; pass one of its splits: {', '.join(source)}.")
    elif isinstance(source, (Dataset, IterableDataset)):
        kinds = {name: getattr(feature, "dtype", "") for name, feature in (source.features or {}).items()}
        strings = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
        wanted = _chosen(source.column_names or list(next(iter(source))), strings, column, title)
        rows = enumerate(source.select_columns(wanted))
        yield from _rows(((f"Row {number} of the dataset", row) for number, row in rows), wanted)
    else:
        try:
            refuse_no_texts(source)
        except TypeError as error:
            raise ValueError(str(error)) from None
        yield from _pairs(source)


def _read_path(
    path: Path, column: str | None, title: str | None, dropped: dict[str, int]
) -> Iterator[tuple[str, str]]:
    undecodable: list[int] = []
    rows = read_rows(path, undecodable)
    if is_table(path):
        names, rows = column_names(path, rows)
        if (first := next(rows, None)) is None:
            return
        wanted, rows = _chosen(names, string_columns(path, first[1]), column, title), chain([first], rows)
    else:
        wanted = _chosen(["text"], ["text"], column, title)
    yield from _rows(((f"{place.capitalize()} of {str(path)!r}", row) for place, row in rows), wanted)
    dropped["undecodable"] = len(undecodable)


def _chosen(names: list[str], texts: list[str], column: str | None, title: str | None) -> list[str]:
    """The column of the texts, and that of the titles if there is one."""
    if title is None and column != "title" and "title" in texts and len(texts) > 1:
        title = "title"
    if title is not None:
        check_column(names, title)
        texts = [name for name in texts if name != title]
    return [text_column(names, texts, column), *([title] if title is not None else [])]


def _rows(rows: Iterable[tuple[str, dict[str, object]]], wanted: list[str]) -> Iterator[tuple[str, str]]:
    text, *title = wanted
    for place, row in rows:
        heading = row.get(title[0]) if title else None
        value = row.get(text)  # where there is none, it is counted with the blank ones
        yield (
            "" if heading is None else _string(heading, f"{place}, column {title[0]!r},"),
            "" if value is None else _string(value, f"{place}, column {text!r},"),
        )


def _pairs(values: Iterable[object]) -> Iterator[tuple[str, str]]:
    for index, value in enumerate(values):
        where = f"Row {index} of texts"
        title, text = value if isinstance(value, (tuple, list)) and len(value) == 2 else (None, value)
        yield "" if title is None else _string(title, where), _string(text, where)


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {quoted(value, 50)}, not a string; leave such rows out.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where} is {quoted(value, 50)}, with half a character (a lone surrogate); repair it."
        ) from None
    return value
