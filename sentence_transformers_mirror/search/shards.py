"""Shards: Parquet files of texts and their vectors, made anywhere, which nothing but their footers holds together.

A shard has the columns ``id`` (JSON), ``text``, ``metadata`` (JSON or null) and ``embedding`` (a fixed number of
float32), and says in its footer which model made it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.positions import repeated
from sentence_transformers_mirror.search.rows import WINDOW, Rows
from sentence_transformers_mirror.search.segments import SCHEMA, parsed_ids, parsed_metadata
from sentence_transformers_mirror.search.state import Identity
from sentence_transformers_mirror.search.vectors import unit
from sentence_transformers_mirror.terminal import bar

KEY = b"sentence_transformers_mirror"  # of what the footer tells
_REMAKE = "delete it and encode its texts again"


def shard_schema(dimension: int) -> pa.Schema:
    return pa.schema([*SCHEMA, ("embedding", pa.list_(pa.float32(), dimension))])


@dataclass(frozen=True)
class Shard:
    """What the footer of a shard says."""

    file: str  # path or URI
    rows: int
    dimension: int
    made: dict[str, Any]  # ``fingerprint``, ``model`` and ``dimensions`` of the model, and of what the shard was made
    mark: str  # a digest of the footer, which holds a digest of all rows

    @property
    def model(self) -> Identity:
        return Identity(*(self.made.get(one.name) for one in fields(Identity)))


def place(file: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in there."""
    if "://" not in str(file):
        return fs.LocalFileSystem(), str(file)
    try:
        return fs.FileSystem.from_uri(str(file))
    except (pa.ArrowException, ValueError) as error:
        raise OSError(f"{quoted(str(file))} leads nowhere: {_said(error)}.") from error


def listed(files: str | Path | Iterable[str | Path]) -> list[str]:
    """The files, at least one, that are meant by a pattern such as ``out/*.parquet``, by a folder, or by a list."""
    if isinstance(files, (str, Path)):
        system, path = place(files)
        folder, _, pattern = path.rpartition("/")
        begin = str(files).removesuffix(pattern)
        kind = system.get_file_info(path).type
        if kind == fs.FileType.Directory:
            folder, pattern, begin = path, "*", str(files).rstrip("/") + "/"
        elif kind == fs.FileType.File or not any(sign in pattern for sign in "*?["):
            return [str(files)]
        there = system.get_file_info(fs.FileSelector(folder or begin or ".", allow_not_found=True))
        hidden = () if pattern.startswith((".", "_")) else (".", "_")  # is no data, by the custom of Parquet
        names = sorted(one.base_name for one in there if one.is_file and not one.base_name.startswith(hidden))
        found = [begin + name for name in fnmatch.filter(names, pattern)]
    else:
        found = [str(file) for file in files]
    if not found:
        raise FileNotFoundError(f"There is no file in or like {quoted(str(files))}: check the path.")
    for one, other in itertools.pairwise(sorted(found)):
        if one == other:
            raise ValueError(f"The file {quoted(one)} is named twice: name it once.")
    return found


def read_shard(file: str | Path) -> Shard:
    """What the footer of a shard says, an OSError, or a ValueError where it is none."""
    with _reading(file) as parquet:
        told, schema, rows = parquet.metadata.metadata or {}, parquet.schema_arrow, parquet.metadata.num_rows
        mark = _mark(file)
    there = dict(zip(schema.names, schema.types, strict=True))
    if len(there) < len(schema.names) or KEY not in told or not set(there) >= {*SCHEMA.names, "embedding"}:
        raise ValueError(
            f"{str(file)!r} is no shard of vectors: it lacks what `encode_shards` writes, and its columns are "
            f"{', '.join(map(quoted, there))}; encode its texts first."
        )
    vectors, kinds = there["embedding"], {"fingerprint": str, "model": str | None, "dimensions": int | None}
    fits = all(pa.types.is_large_string(there[name]) for name in SCHEMA.names)
    fits = fits and pa.types.is_fixed_size_list(vectors) and vectors.value_type == pa.float32()
    with suppress(ValueError, RecursionError):
        made = json.loads(told[KEY])
        if fits and isinstance(made, dict) and all(isinstance(made.get(name), kinds[name]) for name in kinds):
            return Shard(str(file), rows, vectors.list_size, made, mark)
    raise ValueError(f"{str(file)!r} has columns or a footer of another kind than a shard: {_REMAKE}.")


def read_shards(files: str | Path | Iterable[str | Path]) -> list[Shard]:
    """The shards of one model, without an id twice; all footers are read before anything is done with any of them."""
    shards = [read_shard(file) for file in listed(files)]
    first = shards[0]
    for shard in shards:
        if (shard.made["fingerprint"], shard.dimension) != (first.made["fingerprint"], first.dimension):
            raise ValueError(
                f"The shards {first.file!r} and {shard.file!r} are of two models or settings: index those of one."
            )
    if not sum(shard.rows for shard in shards):
        raise ValueError("There is no text in the shards: encode some first.")
    _check_ids(shards)
    return shards


def batches(shard: Shard, columns: list[str] | None = None, size: int = WINDOW) -> Iterator[pa.RecordBatch]:
    """The rows of a shard, so many at a time; refuses one that is damaged or was replaced meanwhile."""
    rows = 0
    with _reading(shard.file) as parquet:
        for batch in parquet.iter_batches(size, columns=columns):
            rows += len(batch)
            for name in batch.schema.names:
                if name != "metadata" and batch.column(name).null_count:
                    raise ValueError(f"{shard.file!r} has rows without {name}: {_REMAKE}.")
            yield batch
    if rows != shard.rows:
        raise ValueError(f"{shard.file!r} was changed while it was read: try again.")


def unit_rows(shard: Shard, size: int = WINDOW) -> Rows:
    """The unit vectors and the entries of a shard, so many rows at a time."""
    before = 0
    for batch in batches(shard, size=size):
        table = pa.Table.from_batches([batch.select(SCHEMA.names)]).cast(SCHEMA)
        flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
        with _named(shard):
            parsed_metadata(table.column("metadata"))
            vectors = unit(flat.reshape(-1, shard.dimension), batch.column("text").to_pylist(), before)
        before += len(batch)
        yield vectors, table


def all_rows(shards: list[Shard], show_progress: bool | None) -> Rows:
    """Those of all shards, with a bar."""
    with bar(total=sum(shard.rows for shard in shards), unit=" texts", desc="Reading", show=show_progress) as shown:
        for shard in shards:
            for vectors, table in unit_rows(shard):
                yield vectors, table
                shown.update(len(table))


def _check_ids(shards: list[Shard]) -> None:
    twice = repeated(lambda: itertools.chain.from_iterable(map(_ids, shards)), sum(shard.rows for shard in shards))
    if twice is not None:
        one, other = [shard.file for shard in shards for item in _ids(shard) if item == twice][:2]
        where = f"twice in {one!r}" if one == other else f"in {one!r} and {other!r}"
        raise ValueError(f"The id {quoted(twice)} is {where}: make the ids different, and encode again.")


def _ids(shard: Shard) -> Iterator[int | str]:
    for batch in batches(shard, ["id"]):
        with _named(shard):
            ids = parsed_ids(batch.column("id"))
        yield from ids


@contextmanager
def _named(shard: Shard) -> Iterator[None]:
    """Says which shard an error is about."""
    try:
        yield
    except BrokenIndexError:
        raise ValueError(f"{shard.file!r} has ids or metadata that are no valid JSON: {_REMAKE}.") from None
    except ValueError as error:
        raise ValueError(f"{shard.file!r} cannot be used: {error}") from error


@contextmanager
def _reading(file: str | Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        system, path = place(file)
        with pq.ParquetFile(path, filesystem=system) as parquet:
            yield parquet
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no shard {str(file)!r}: check the path.") from None
    except pa.ArrowException as error:
        raise ValueError(f"{str(file)!r} is cut off, damaged or no Parquet ({_said(error)}): {_REMAKE}.") from error
    except OSError as error:  # what pyarrow says of damaged pages, too
        raise OSError(f"{str(file)!r} cannot be read ({_said(error)}): {_REMAKE}, if it is there.") from error


def _mark(file: str | Path) -> str:
    system, path = place(file)
    with system.open_input_file(path) as stream:
        size = stream.size()
        length = struct.unpack("<I", stream.read_at(8, size - 8)[:4])[0]
        return hashlib.sha256(stream.read_at(length + 8, size - length - 8)).hexdigest()[:24]


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:120].rstrip(". ")
