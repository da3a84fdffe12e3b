"""The rows of a file: what `datasets` reads, or a text a line."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# By suffix: the builder of `datasets` that reads it and its options. Any other file holds a text a line.
_TABLES = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def is_table(path: Path) -> bool:
    """Whether a file has columns, by its name: csv, tsv, json, jsonl or parquet, also gzipped."""
    return _suffix(path) in _TABLES


def read_rows(path: Path, undecodable: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """Read a file row by row, without a copy of it in a cache.

    Args:
        path: A table, or any other file, a text a line in UTF-8, also gzipped.
        undecodable: Receives the numbers of the lines that are not UTF-8, which are then left out.

    Returns:
        The rows of a table; of any other file each line, blank ones too, as ``text`` without white space around it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read; or if a line is not UTF-8, where ``undecodable`` is None, or none is.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}; check the path (strings themselves go into a list).")
    yield from (_table(path) if is_table(path) else _lines(path, undecodable))


def _suffix(path: Path) -> str:
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()


def _table(path: Path) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    builder, options = _TABLES[_suffix(path)]
    try:
        yield from load_dataset(builder, data_files=str(path), split="train", streaming=True, **options)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        raise ValueError(
            f"{str(path)!r} cannot be read as {_suffix(path)}: {type(error).__name__}: {error}"
        ) from error


def _lines(path: Path, undecodable: list[int] | None) -> Iterator[dict[str, str]]:
    lines = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for lines, line in enumerate(file, start=1):
                if b"\0" in line:
                    raise ValueError(f"{str(path)!r} is no text file (a zero byte in line {lines}); save it as UTF-8.")
                try:
                    yield {"text": line.decode("utf-8-sig" if lines == 1 else "utf-8").strip()}
                except UnicodeDecodeError:
                    if undecodable is None:
                        raise ValueError(
                            f"Line {lines} of {str(path)!r} is not UTF-8; convert the file first."
                        ) from None
                    undecodable.append(lines)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as gzip: {error}.") from error
    if lines and undecodable is not None and len(undecodable) == lines:
        raise ValueError(f"{str(path)!r} is not UTF-8: no line of it could be decoded; convert it to UTF-8 first.")
