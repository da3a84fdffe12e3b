"""What goes into an index: texts with ids and metadata, read in windows and checked before anything is computed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.files import is_table, read_rows
from sentence_transformers_mirror.search.segments import CUT, SCHEMA

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Window:
    """Consecutive entries.

    Args:
        texts: One per entry.
        ids: One per entry, or None where they are to be numbered.
        metadata: JSON, or None, per entry.
        spans: Where the passages of each text begin and end, or None where texts are not cut.
    """

    texts: list[str]
    ids: list[int | str] | None
    metadata: list[str | None]
    spans: list[list[tuple[int, int]]] | None = None

    @property
    def passages(self) -> list[str]:
        """What is embedded: a text per entry, or its passages, one after the other."""
        if self.spans is None:
            return self.texts
        return [text[low:high] for text, spans in zip(self.texts, self.spans, strict=True) for low, high in spans]

    def table(self, ids: list[int | str]) -> pa.Table:
        columns = [json.dumps(item) for item in ids], self.texts, self.metadata
        if self.spans is None:
            return pa.table(list(columns), schema=SCHEMA)
        rows = [
            (item, None if number else text, extra, number, *span)
            for item, text, extra, spans in zip(*columns, self.spans, strict=True)
            for number, span in enumerate(spans)
        ]
        return pa.table(list(map(list, zip(*rows, strict=True))), schema=CUT)


def windows(
    texts: Iterable[str] | Dataset | Path,
    ids: Iterable[int | str] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
    size: int,
) -> Iterator[Window]:
    """Read entries in windows, so that a corpus need not fit memory.

    Args:
        texts: Strings, none of them blank; a ``datasets.Dataset`` with a column ``text``; or the path of a text file.
        ids: An int or str per text, all different; or None.
        metadata: A dictionary of JSON values, or None, per text; or None.
        size: Entries in a window.

    Raises:
        OSError: If there is no such file.
        TypeError: If a text is no string, an id neither int nor str, or metadata no dictionary of JSON values.
        ValueError: If a text is blank or no valid Unicode, or there are more or fewer ids or metadata than texts.
    """
    source, missing = iter(_strings(texts)), object()
    columns = [None if values is None else iter(values) for values in (ids, metadata)]
    read = 0
    while True:
        taken = list(itertools.islice(source, size))
        for position, text in enumerate(taken, start=read):
            check_text(text, f"texts[{position}]")
        extra = []
        for name, column in zip(("ids", "metadata"), columns, strict=True):
            values = None if column is None else list(itertools.islice(column, len(taken)))
            if values is not None and len(values) < len(taken):
                count = (
                    f"{read + len(values)} {name} for {'at least ' if len(taken) == size else ''}{read + len(taken)}"
                )
                raise ValueError(f"There are {count} texts: pass one per text, or none at all.")
            extra.append(values)
        if taken:
            yield Window(
                taken,
                None if extra[0] is None else [check_id(item) for item in extra[0]],
                [None] * len(taken) if extra[1] is None else [_json(item) for item in extra[1]],
            )
        read += len(taken)
        if len(taken) < size:
            break
    for name, column in zip(("ids", "metadata"), columns, strict=True):
        if column is not None and next(column, missing) is not missing:
            raise ValueError(f"There are more than {read} {name} for {read} texts: pass one per text, or none at all.")


def check_text(text: object, what: str) -> None:
    """Refuse what is no text to search for or in.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is blank or cannot be written as UTF-8.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is {text!r:.60} and no string: leave it out or convert it.")
    if not text.strip():
        raise ValueError(f"{what} is blank, and would match anything: leave it out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} is {text!r:.60}, which holds half a character (a lone surrogate): repair it."
        ) from None


def check_id(item: object) -> int | str:
    """An id as a plain int or str, as it will be given back.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(item, np.integer):
        return int(item)
    if not isinstance(item, (int, str)) or isinstance(item, bool):
        raise TypeError(f"The id {item!r:.60} is neither int nor str: convert it.")
    return str(item) if isinstance(item, str) else int(item)


def check_new(ids: Iterable[int | str], taken: set[int | str] | dict[int | str, int], present: str) -> None:
    """Refuse ids that are there already; adds the new ones to a set.

    Raises:
        ValueError: If one is there.
    """
    for item in ids:
        if item in taken:
            raise ValueError(f"The id {item!r:.60} is {present}: make the ids different.")
        if isinstance(taken, set):
            taken.add(item)


def _json(metadata: Mapping[str, Any] | None) -> str | None:
    if metadata is None:
        return None
    try:
        text = json.dumps(metadata, allow_nan=False)
        if isinstance(metadata, dict) and json.loads(text) == metadata:
            return text if metadata else None
    except (TypeError, ValueError, RecursionError):
        pass
    raise TypeError(
        f"The metadata {metadata!r:.80} would not come back as it is: pass a dictionary with strings as keys and "
        "strings, finite numbers, bools, None, lists and dictionaries as values."
    )


def _strings(texts: Iterable[str] | Dataset | Path) -> Iterable[str]:
    if isinstance(texts, Path):
        return columns(texts)[0]
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(
            f"texts must be a list of strings, or a pathlib.Path of a file, not one {type(texts).__name__}."
        )
    names = getattr(texts, "column_names", None)  # of a datasets.Dataset, without importing datasets for all others
    if names is not None:
        if "text" not in names:
            raise ValueError(f"The dataset has no column 'text' but {names}: pass dataset[column].")
        return (row["text"] for row in texts.select_columns(["text"]))
    return texts


def columns(
    path: Path, text: str | None = None, item: str | None = None, metadata: Sequence[str] = ()
) -> tuple[Iterator[str], Iterator[int | str] | None, Iterator[dict[str, Any]] | None]:
    """Texts, ids and metadata of a file, by the names of its columns; read as they are asked for.

    Args:
        path: A csv, tsv, json, jsonl or parquet file; any other holds a text a line and has no other columns.
        text: The column of the texts; by default the one named "text".
        item: The column of the ids, if there is one.
        metadata: Columns of metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or has no such column.
    """
    rows = read_rows(path)
    if not is_table(path):
        rows = (row for row in rows if row["text"])
    first = next(rows, None)
    if first is None:
        return iter(()), None, None
    text = text or "text"
    for name in (text, item, *metadata):
        if name is not None and name not in first:
            raise ValueError(f"{str(path)!r} has no column {name!r}; the columns are {', '.join(map(str, first))}.")
    texts, ids, extra = itertools.tee(itertools.chain([first], rows), 3)
    return (
        (row[text] for row in texts),
        None if item is None else (row[item] for row in ids),
        ({name: row[name] for name in metadata} for row in extra) if metadata else None,
    )
