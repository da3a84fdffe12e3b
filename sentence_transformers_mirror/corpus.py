"""Raw text in, a clean `datasets.Dataset` with a `text` column out, and a report of what was left behind."""

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

from sentence_transformers_mirror.documents import has_headings, read_sections
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
        source: A text file (a text a line, UTF-8, also gzipped), a csv, tsv, json, jsonl or parquet file, a folder
            written by ``Dataset.save_to_disk``, a ``datasets.Dataset`` or any iterable of strings, or of pairs of
            title and text. A Markdown, reStructuredText or HTML file, or a folder of such files, gives a text for each
            heading, which is its title.
        column: The column with the texts; may be left out if there is only one column of strings, or one named "text".
        title: The column with their titles, which may be empty; by default one named "title", if there is one.
        max_texts: Sample so many, if there are more.
        seed: Of the sample.
        split_sentences: Whether to split each text into sentences.
        language: Of the sentences, an ISO 639-1 code; only for splitting.

    Returns:
        A dataset with the column ``text``, and ``title`` where a text has one, in the order of the source; and the
        report.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the source is binary, has no such column, holds something else than strings, or no text at all.
    """
    dropped = {"empty": 0, "duplicate": 0, "undecodable": 0, "sampled out": 0}
    # Arrow holds a text in its bytes and eight more; as strings of Python a corpus is several times its file. Its
    # default pool keeps more for itself, most of all while texts are read.
    pool = pa.system_memory_pool()
    chunks: list[pa.Table] = []
    hashes = array("q")
    read, titled = 0, False
    raw = _read(source, column, title, dropped)
    if split_sentences:
        raw = (("", sentence) for _, text in raw for sentence in _split(text, language))
    folded = ((" ".join(heading.split()), " ".join(text.split())) for heading, text in raw)
    while rows := list(islice(folded, _CHUNK)):
        read += len(rows)
        kept = [(heading, text) for heading, text in rows if text]
        dropped["empty"] += len(rows) - len(kept)
        titles, texts = zip(*kept, strict=True) if kept else ((), ())
        titled = titled or any(titles)
        columns = {"title": titles, "text": texts}
        chunks.append(
            pa.table({name: pa.array(values, pa.large_string(), memory_pool=pool) for name, values in columns.items()})
        )
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


def _read(source: object, column: str | None, title: str | None, dropped: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Titles, empty where there is none, and texts."""
    if isinstance(source, (str, Path)):
        yield from _read_path(Path(source), column, title, dropped)
    elif isinstance(source, (DatasetDict, IterableDatasetDict)):
        raise ValueError(f"This is a dictionary of datasets; pass one of its splits: {', '.join(source)}.")
    elif isinstance(source, (Dataset, IterableDataset)):
        names = source.column_names or list(next(iter(source)))
        wanted = _chosen(names, _text_columns(source), column, title)
        yield from _rows(source.select_columns(wanted), wanted)
    elif isinstance(source, Iterable):
        yield from _pairs(source)
    else:
        kind = type(source).__name__
        raise ValueError(f"Texts must be a file, a datasets.Dataset or an iterable of strings, not {kind}.")


def _read_path(
    path: Path, column: str | None, title: str | None, dropped: dict[str, int]
) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        if (path / "dataset_info.json").exists():
            yield from _read(load_from_disk(str(path)), column, title, dropped)
            return
        files = sorted(filter(has_headings, path.rglob("*")))
        if not files:
            raise ValueError(
                f"{str(path)!r} is a folder without a saved dataset in it, or a Markdown, reStructuredText or HTML "
                "file; name a text file."
            )
        for file in files:
            yield from read_sections(file)
        return
    if has_headings(path) and path.is_file():
        yield from read_sections(path)
        return
    undecodable: list[int] = []
    rows = read_rows(path, undecodable)
    if (first := next(rows, None)) is not None:
        texts = [key for key, value in first.items() if isinstance(value, str)]
        yield from _rows(chain([first], rows), _chosen(list(first), texts, column, title))
    dropped["undecodable"] = len(undecodable)


def _chosen(names: list[str], texts: list[str], column: str | None, title: str | None) -> list[str]:
    """The column of the texts, and that of the titles if there is one."""
    if title is None and column != "title" and "title" in texts and len(texts) > 1:
        title = "title"
    if title is not None:
        if title not in names:
            raise ValueError(f"There is no column {title!r}; the columns are {', '.join(names)}.")
        texts = [name for name in texts if name != title]
    return [_choose_column(names, texts, column), *([title] if title is not None else [])]


def _rows(rows: Iterable[dict[str, object]], wanted: list[str]) -> Iterator[tuple[str, str]]:
    text, *title = wanted
    for index, row in enumerate(rows):
        heading = row[title[0]] if title else ""
        yield (
            "" if heading is None else _string(heading, index, f"column {title[0]!r}" if title else ""),
            _string(row[text], index, f"column {text!r}"),
        )


def _pairs(values: Iterable[object]) -> Iterator[tuple[str, str]]:
    for index, value in enumerate(values):
        if isinstance(value, (tuple, list)) and len(value) == 2:
            yield tuple(_string(part, index, "texts") for part in value)
        else:
            yield "", _string(value, index, "texts")


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


def _string(value: object, index: int, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"Row {index} of {what} is {value!r:.50}, not a string; leave such rows out.")
    return value


def _split(text: str, language: str) -> Iterable[str]:
    from sentencex import segment

    return segment(language, text)
