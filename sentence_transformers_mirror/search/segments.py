"""Segments: rows that never change, on disk or in memory."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.manifest import SegmentFiles
from sentence_transformers_mirror.search.words import Postings

logger = logging.getLogger(__name__)

# Ids and metadata are JSON in the table, so that an id comes back as the int or str it was, of any size.
SCHEMA = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("metadata", pa.large_string())])
# Where texts are cut, a row is a passage: number of the passage in its text, begin and end in characters. The text is
# in the first of them and null in the others; id and metadata are in all.
CUT = pa.schema([*SCHEMA, ("passage", pa.int64()), ("begin", pa.int64()), ("end", pa.int64())])
_PIECE = 8_192  # rows whose ids or metadata are read at a time
NULLABLE = ["metadata", "text"]  # a null text is found by `fault_of`


class Segment:
    """Rows that are never changed: unit vectors, float32, and their entries, a table or a function that reads it."""

    def __init__(
        self,
        vectors: np.ndarray,
        entries: pa.Table | Callable[[], pa.Table],
        source: tuple[str, SegmentFiles] | None = None,
        mapped: bool = False,
    ) -> None:
        self.vectors = vectors
        self.source = source if mapped else None  # the folder and the files that are all there is of it
        self.files = dict([source] if source else [])  # the files of each folder that holds it
        self.columns: dict[str, Any] = {}  # of metadata, kept by filters.py
        self.read_words: Callable[[], tuple[Postings, ...]] | None = None  # where they lie on disk
        self.postings: tuple[Postings, ...] | None = None  # the words, once they are in memory
        self._entries = entries

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def entries(self) -> pa.Table:
        if not isinstance(self._entries, pa.Table):
            self._entries = self._entries()
        return self._entries

    @cached_property
    def _cells(self) -> tuple[pa.ChunkedArray, ...]:
        return tuple(self.entries.columns)  # a table makes them anew each time, which takes as long as reading a row

    def words(self, language: str | None) -> tuple[Postings, ...]:
        """Which texts hold which words; made when it is first needed. The language of an index is always the same."""
        read = self.read_words  # which another thread may take away
        if self.postings is None and read is not None:
            try:
                self.postings = read()
            except ValueError as error:  # only a cache: it is made again from the texts
                logger.warning(
                    f"{printable(error)} The words of the index are read again. Save the index to keep them."
                )
                self.read_words = None
                self.files = {home: replace(record, words=None) for home, record in self.files.items()}
        if self.postings is None:
            self.postings = tuple(words.postings(self.passages(), language))
        return self.postings

    def ids(self) -> Iterator[int | str]:
        return self._read("id", parsed_ids)

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        return self._read("metadata", parsed_metadata)

    def _read(self, name: str, parsed: Callable[[pa.ChunkedArray], list[Any]]) -> Iterator[Any]:
        """What a column says, in pieces: all of it takes much more memory than what it is read for."""
        column = self.entries.column(name)
        for start in range(0, len(self), _PIECE):
            yield from parsed(column.slice(start, _PIECE))

    def id(self, row: int) -> int | str:
        return _parsed(self._cells[0][row].as_py(), (int, str))

    def text(self, row: int) -> str:
        return self._cells[1][row - int(self.numbers[row]) if self.cut else row].as_py()

    @property
    def cut(self) -> bool:
        """Whether a row is a passage and not a text."""
        return len(self.entries.schema) > len(SCHEMA)

    @cached_property
    def numbers(self) -> np.ndarray:
        """The number of each row's passage in its text, shape (rows,), int64."""
        return self.entries.column("passage").to_numpy() if self.cut else np.zeros(len(self), np.int64)

    def span(self, row: int) -> tuple[int, int] | None:
        """Where a passage begins and ends in its text, in characters; None where texts are not cut."""
        return (self._cells[4][row].as_py(), self._cells[5][row].as_py()) if self.cut else None

    def passage(self, row: int) -> str:
        """What was embedded in a row."""
        span = self.span(row)
        return self.text(row) if span is None else self.text(row)[slice(*span)]

    def passages(self) -> pa.ChunkedArray:
        """What was embedded in each row: the passage, or the text where they are not cut."""
        if not self.cut:
            return self.entries.column("text")
        made, text = [], ""
        for row in zip(*(self.entries.column(name).to_pylist() for name in ("text", "begin", "end")), strict=True):
            text = text if row[0] is None else row[0]
            made.append(text[row[1] : row[2]])
        return pa.chunked_array([pa.array(made, pa.large_string())])

    def metadata(self, row: int) -> dict[str, Any]:
        found = self._cells[2][row].as_py()
        return {} if found is None else _parsed(found, dict)


def parsed_ids(cells: pa.Array | pa.ChunkedArray) -> list[int | str]:
    """The ids that some cells say, ints and strings."""
    # A string that began in one cell and ended in the next would hold a line break, which JSON forbids.
    found = _parsed("[" + ",\n".join(cells.to_pylist()) + "]", list)
    if len(found) != len(cells) or not all(type(item) in (int, str) for item in found):
        raise _broken()
    return found


def parsed_metadata(cells: pa.Array | pa.ChunkedArray) -> list[dict[str, Any]]:
    """The metadata that some cells say, dictionaries, empty where a cell is null."""
    mark = secrets.randbits(60)  # after each cell, which no cell can know: none goes on in the next
    marked = (f"{'{}' if cell is None else cell},{mark}" for cell in cells.to_pylist())
    found = _parsed(f"[{','.join(marked)}]", list)
    if found[1::2] != [mark] * len(cells) or not all(type(one) is dict for one in found[::2]):
        raise _broken()
    return found[::2]


def _parsed(text: str, kind: type | tuple[type, ...]) -> Any:
    """What a cell says, which in a received index may be anything; or a `BrokenIndexError`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise _broken()
    return found


def _broken() -> BrokenIndexError:
    return BrokenIndexError("Ids or metadata of the index are not valid: restore it from a copy or build it again.")


def entries_schema(passages: int | None) -> pa.Schema:
    """Of the entries of an index that cuts texts into passages, or does not."""
    return SCHEMA if passages is None else CUT


def fault_of(entries: pa.Table) -> str | None:
    """What is wrong with entries that have the right columns, if anything."""
    if len(entries.schema) == len(SCHEMA):
        return "There are rows without text." if entries.column("text").null_count else None
    numbers, begins, ends = (entries.column(name).to_numpy() for name in ("passage", "begin", "end"))
    first, begun = numbers == 0, entries.column("text").is_valid().to_numpy()
    if not first[:1].all() or (np.diff(numbers)[~first[1:]] != 1).any() or not np.array_equal(begun, first):
        return "The passages are not numbered from 0 in each text."
    return "There are passages that end before they begin." if (begins < 0).any() or (ends <= begins).any() else None


def gathered(rows: Iterator[tuple[np.ndarray, pa.Table]]) -> Segment:
    """One segment in memory, of vectors and entries that come in pieces."""
    vectors = np.empty((0, 0), np.float32)
    tables, count = [], 0
    for block, table in rows:
        if count + len(block) > len(vectors):
            # In place, where the system can move pages instead of copying them.
            vectors.resize((max(count + len(block), count * 3 // 2), block.shape[1]), refcheck=False)
        vectors[count : count + len(block)] = block
        count += len(block)
        tables.append(table)
    vectors.resize((count, vectors.shape[1]), refcheck=False)
    return Segment(vectors, pa.concat_tables(tables))


def next_id(segments: Iterable[Segment]) -> int:
    """The number after the largest that is an id."""
    numbers = (item for segment in segments for item in segment.ids() if isinstance(item, int))
    return max(max(numbers, default=-1) + 1, 0)


def merged(segments: Sequence[Segment]) -> Segment:
    return Segment(
        np.concatenate([segment.vectors for segment in segments]),
        pa.concat_tables([segment.entries for segment in segments]).combine_chunks(),
    )
