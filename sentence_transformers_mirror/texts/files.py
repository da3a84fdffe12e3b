"""The one reader of files: what stands in them, row by row, and nothing that is guessed from other rows.

Nothing is cached, and exactly the named file is opened. A cell of csv and tsv is a string; `typed` says which number
it is, if any. Values of json are those of JSON, and those of parquet its own.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sentence_transformers_mirror.printable import printable, quoted
from sentence_transformers_mirror.texts.documents import has_headings, read_sections

_PEEK = 1_000  # rows, in which the columns of a file of JSON are looked for
_TEXT = {"mode": "rt", "encoding": "utf-8-sig", "newline": ""}

Rows = Iterator[tuple[str, dict[str, Any]]]  # where each is, such as ``line 3``, and its values


def is_table(path: Path) -> bool:
    """Whether a file has columns, by its name: csv, tsv, json, jsonl, ndjson or parquet, also gzipped; or sections."""
    return _suffix(path) in _TABLES or has_headings(path) or path.is_dir()


def has_cells(path: Path) -> bool:
    """Whether its values are cells, for `typed`: csv and tsv."""
    return _suffix(path) in (".csv", ".tsv")


def typed(cell: str | None) -> str | int | float | None:
    """A cell of csv or tsv as the int or float that is written in just this way; anything else as it stands.

    It is typed by itself alone: ``7`` is an int and ``007`` is not, ``0.5`` is a float and ``1e5``, ``NA`` and ``inf``
    are strings.
    """
    if not cell or cell[0] not in "-0123456789" or len(cell) > 400:
        return cell
    for kind in (int, float):
        try:
            if str(number := kind(cell)) == cell and math.isfinite(number):
                return number
        except (ValueError, OverflowError):
            pass
    return cell


def refuse_no_texts(source: object) -> None:
    """A TypeError for what would be iterated over the names of its columns, or over the letters of a text."""
    kind = type(source).__name__
    if isinstance(source, dict) or hasattr(source, "iterrows") or hasattr(source, "to_pylist"):
        raise TypeError(
            f"texts is one {kind}, whose rows are not texts: pass the list of its texts, such as [*column]."
        )
    if isinstance(source, (bytes, bytearray)) or not isinstance(source, Iterable):
        raise TypeError(f"texts must be a file, a datasets.Dataset or a list of strings, not one {kind}.")


def read_rows(path: Path, undecodable: list[int] | None = None) -> Rows:
    """Read a file, or a folder of documents or of a saved dataset, row by row.

    All may be gzipped but parquet and documents. Sections of documents have a ``title`` and a ``text``. Each line of a
    file of no other kind, blank ones too, is a ``text`` without white space around it; lines that are not UTF-8 are
    left out, and their numbers added to ``undecodable``, where it is given. What cannot be read is a ValueError that
    names the line.
    """
    if path.is_dir():
        yield from _folder(path)
        return
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}; check the path (strings themselves go into a list).")
    reader = _sections if has_headings(path) else _TABLES.get(_suffix(path), partial(_lines, undecodable=undecodable))
    try:
        yield from reader(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} cannot be read as gzip: {error}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not UTF-8 ({error.reason}: {error.object[error.start : error.end]!r}); convert it."
        ) from None


def column_names(path: Path, rows: Rows) -> tuple[list[str], Rows]:
    """The names of the columns, and all rows again: rows of JSON need not have the same, so some are looked at."""
    peeked = list(itertools.islice(rows, _PEEK if _TABLES.get(_suffix(path)) in (_json, _json_lines) else 1))
    names = dict.fromkeys(name for _, row in peeked for name in row)
    return list(names), itertools.chain(peeked, rows)


def string_columns(path: Path, row: dict[str, Any]) -> list[str]:
    """The columns that hold strings, by a row; all where there is none."""
    cells = has_cells(path)
    return [name for name, value in row.items() if isinstance(typed(value) if cells else value, str)] or list(row)


def text_column(names: list[str], strings: list[str], column: str | None) -> str:
    """The column that holds the texts: the one asked for, "text", or the only one of strings."""
    if column is not None:
        check_column(names, column)
        return column
    if "text" in names:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise ValueError(
        f"There is no column 'text'. Which column holds the texts? Name it with column=, one of "
        f"{', '.join(map(printable, strings or names))}."
    )


def check_column(names: list[str], column: str) -> None:
    if column not in names:
        raise ValueError(f"There is no column {column!r}; the columns are {', '.join(map(printable, names))}.")


def _suffix(path: Path) -> str:
    return (Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix).lower()


def _open(path: Path, mode: str = "rb", **options: Any) -> Any:
    return (gzip.open if path.suffix.lower() == ".gz" else open)(path, mode, **options)


def _folder(path: Path) -> Rows:
    if (path / "dataset_info.json").exists():
        from datasets import load_from_disk

        try:
            dataset = load_from_disk(str(path))
        except Exception as error:  # of a damaged one, anything
            raise ValueError(f"{str(path)!r} cannot be read as a saved dataset: {error}.") from error
        yield from ((f"row {number}", row) for number, row in enumerate(dataset, start=1))
        return
    files = sorted(filter(has_headings, path.rglob("*")))
    if not files:
        raise ValueError(
            f"{str(path)!r} is a folder without a saved dataset in it, or a Markdown, reStructuredText or HTML "
            "file; name a text file."
        )
    for file in files:
        yield from _sections(file)


def _sections(path: Path) -> Rows:
    for number, (title, text) in enumerate(read_sections(path), start=1):
        yield f"section {number} of {path.name!r}", {"title": title, "text": text}


def _cells(path: Path, delimiter: str) -> Rows:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be long
    in_quotes = delimiter != "\t" or _is_quoted(path)
    with _open(path, **_TEXT) as file:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if in_quotes else csv.QUOTE_NONE
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=in_quotes)
        try:
            header = next(filter(None, reader), [])
            twice = [name for name in header if name and header.count(name) > 1]
            if twice:
                raise ValueError(f"{str(path)!r} has two columns {twice[0]!r}: rename one.")
            for row in reader:
                if len(row) > len(header):
                    raise ValueError(
                        f"Line {reader.line_num} of {str(path)!r} has {len(row)} cells and the header {len(header)}: "
                        "put cells that contain the delimiter between quotation marks."
                    )
                if row:
                    yield f"line {reader.line_num}", dict(itertools.zip_longest(header, row))
        except csv.Error as error:
            raise ValueError(f"Line {reader.line_num} of {str(path)!r} cannot be read: {error}.") from error


def _is_quoted(path: Path) -> bool:
    """Whether every quotation mark in a tsv opens a cell, closes it, or is doubled in one."""
    with _open(path, **_TEXT) as file:
        if not any('"' in line for line in file):
            return False
    with _open(path, **_TEXT) as file:
        reader = csv.reader(_without_bare(file), delimiter="\t", strict=True)
        try:
            header = next(filter(None, reader), [])
            return all(len(row) <= len(header) for row in reader)
        except csv.Error:
            return False


def _without_bare(lines: Iterable[str]) -> Iterator[str]:
    """The lines; a csv.Error where a cell that is not quoted has a quotation mark in it, which csv would read."""
    inside = False  # a quoted cell
    for line in lines:
        for cell in line.rstrip("\r\n").split("\t") if '"' in line else ():
            if inside or cell.startswith('"'):
                inside ^= cell.count('"') % 2 == 1
            elif '"' in cell:
                raise csv.Error
        yield line


def _json_lines(path: Path) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                where = f"Line {number} of {str(path)!r}"
                yield f"line {number}", _object(_parsed(text, where), where)


def _json(path: Path) -> Rows:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    is_list = text.lstrip().startswith("[")
    try:
        found = _parsed(text, repr(str(path)))
    except ValueError:
        if is_list:
            raise
        yield from _json_lines(path)  # an object a line
        return
    del text
    for number, row in enumerate(found if is_list else [found], start=1):
        yield f"row {number}", _object(row, f"Row {number} of {str(path)!r}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{where} cannot be read as JSON: {cause}.") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f'{where} is no object such as {{"text": "..."}} but {quoted(row, 40)}.')
    return row


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(10_000))
            for number, row in enumerate(itertools.chain.from_iterable(batches), start=1):
                yield f"row {number}", row
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as parquet: {' '.join(str(error).split())[:200]}.") from error


def _lines(path: Path, undecodable: list[int] | None) -> Rows:
    lines = 0
    with _open(path) as file:
        for lines, line in enumerate(file, start=1):
            if b"\0" in line:
                raise ValueError(f"{str(path)!r} is no text file (a zero byte in line {lines}); save it as UTF-8.")
            try:
                yield f"line {lines}", {"text": line.decode("utf-8-sig" if lines == 1 else "utf-8").strip()}
            except UnicodeDecodeError:
                if undecodable is None:
                    raise ValueError(f"Line {lines} of {str(path)!r} is not UTF-8; convert the file first.") from None
                undecodable.append(lines)
    if lines and undecodable is not None and len(undecodable) == lines:
        raise ValueError(f"{str(path)!r} is not UTF-8: no line of it could be decoded; convert it to UTF-8 first.")


_TABLES: dict[str, Callable[[Path], Rows]] = {
    ".csv": partial(_cells, delimiter=","),
    ".tsv": partial(_cells, delimiter="\t"),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), _json_lines),
    ".json": _json,
    ".parquet": _parquet,
}
