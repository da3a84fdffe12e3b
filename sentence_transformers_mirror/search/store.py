"""What lies on disk. The format is written down in docs/index-format.md; nothing of it is pickled or executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.search.blob import CURE, Blob, size_of
from sentence_transformers_mirror.search.schema import check_manifest
from sentence_transformers_mirror.search.segments import NULLABLE, Segment, check_cut, entries_schema

FORMAT = "sentence-transformers-mirror index"
VERSION = 2
MANIFEST = "manifest.json"


@dataclass
class Contents:
    """What `read` found.

    Args:
        segments: Rows in their order.
        removed: Whether each row was removed, shape (rows,), bool.
        index: The manifest: everything that is small.
        faiss: The file of the FAISS structure, None where there is none or it is damaged.
        words: The files of the postings of each segment, None where there are none or one is damaged.
        lost: Whether a file of a cache is damaged or missing.
        home: The resolved folder and the tag of the save that was read, which a later save compares.
        blobs: All files.
    """

    segments: tuple[Segment, ...]
    removed: np.ndarray
    index: dict[str, Any]
    faiss: Blob | None
    words: list[list[Blob] | None]
    lost: bool
    home: tuple[str, str]
    blobs: list[Blob]


def read(path: str | Path, mapped: bool = False) -> Contents:
    """Read an index.

    Args:
        path: The folder.
        mapped: Map the files instead of reading them, and verify manifest, sizes and headers only. Entries and FAISS
            structure are verified in full before their first use, vectors are not.

    Returns:
        The index. A save that happens meanwhile does not disturb it.

    Raises:
        BrokenIndexError: If the folder holds no index, or one that is damaged or of a newer format.
    """
    folder = Path(path)
    while True:
        index = read_manifest(folder)
        missing = None
        try:
            contents = _read(folder, index, mapped)
            if not contents.lost:
                return contents
        except FileNotFoundError as error:
            missing = error.filename
        except OSError as error:
            raise BrokenIndexError(
                f"{error.filename or folder} cannot be read ({error.strerror or error}): {CURE}."
            ) from error
        # A save that came in between deletes the files of the manifest that we had read.
        if read_manifest(folder)["tag"] == index["tag"]:
            if missing is None:
                return contents
            raise BrokenIndexError(f"{missing} is missing: {CURE}.")


def _read(folder: Path, index: dict[str, Any], mapped: bool) -> Contents:
    try:
        check_manifest(index)
    except ValueError as error:
        raise BrokenIndexError(f"{folder / MANIFEST} describes no index, {error}: {CURE}.") from error
    segments, blobs, lost = [], [], False
    words: list[list[Blob] | None] = []
    schema, home = entries_schema(index.get("passages")), str(folder.resolve())
    for record in index["segments"]:
        segment, files = read_segment(folder, record, index["dimension"], schema, mapped)
        blobs += files
        if not mapped:
            segment.entries  # noqa: B018  # now, rather than at the first hit
        segments.append(segment)
        words.append(None)
        if record.get("words") is not None:
            try:
                words[-1] = mine = [Blob(folder, part["file"], mapped) for part in record["words"]["parts"]]
                blobs += mine
            except (BrokenIndexError, FileNotFoundError):
                lost = True
                segment.files = home, {**record, "words": None}
    removed = np.zeros(sum(map(len, segments)), bool)
    if index["removed"] is not None:
        blob = Blob(folder, index["removed"]["file"], mapped)
        blobs.append(blob)
        blob.verified()
        rows = blob.array(np.int64, (index["removed"]["rows"],))
        if len(rows) and (rows.min() < 0 or rows.max() >= len(removed)):
            raise BrokenIndexError(f"{blob.file} names rows that do not exist: {CURE}.")
        removed[rows] = True
    faiss = None
    if index["structure"] is not None:
        # Only a cache: where it is damaged or gone, it is made again from the vectors.
        try:
            faiss = Blob(folder, index["structure"]["file"], mapped)
            blobs.append(faiss)
        except (BrokenIndexError, FileNotFoundError):
            lost = True
    return Contents(tuple(segments), removed, index, faiss, words, lost, (home, index["tag"]), blobs)


def read_segment(
    folder: Path, record: dict[str, Any], dimension: int, schema: pa.Schema, mapped: bool
) -> tuple[Segment, list[Blob]]:
    vectors, entries = (Blob(folder, record[kind], mapped) for kind in ("vectors", "entries"))
    segment = Segment(
        vectors.array(np.float32, (record["rows"], dimension)),
        _table(entries, record["rows"], schema),
        (str(folder.resolve()), record),
        mapped,
    )
    return segment, [vectors, entries]


def _table(blob: Blob, rows: int, schema: pa.Schema) -> Callable[[], pa.Table]:
    def load() -> pa.Table:
        table = blob.table([schema], NULLABLE)
        if table.num_rows != rows:
            raise BrokenIndexError(f"{blob.file} has {table.num_rows} rows and not {rows}: {CURE}.")
        try:
            check_cut(table)
        except ValueError as error:
            raise BrokenIndexError(f"{blob.file}: {error} {CURE.capitalize()}.") from None
        return table

    return load


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an index, after its checksum was found to be right.

    Raises:
        BrokenIndexError: If there is none, or it is damaged, of something else, or of a newer format.
    """
    file = Path(folder) / MANIFEST
    try:
        size_of(file)
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenIndexError(f"{folder} holds no index, there is no {file.name} in it: check the path.") from None
    except BrokenIndexError:
        raise
    except OSError as error:
        raise BrokenIndexError(f"{file} cannot be read ({error.strerror or error}): {CURE}.") from None
    except (ValueError, RecursionError):
        raise BrokenIndexError(f"{file} is damaged or no part of an index, it is not valid JSON: {CURE}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BrokenIndexError(f"{file} belongs to something else than an index of this package: check the path.")
    version = manifest.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BrokenIndexError(
            f"{file} is of format version {version} and this release reads up to {VERSION}: "
            "upgrade sentence-transformers-mirror."
        )
    index = manifest.get("index")
    if (
        version not in range(1, VERSION + 1)
        or not isinstance(index, dict)
        or manifest.get("checksum") != _checksum(index)
        or not isinstance(index.get("tag"), str)
    ):
        raise BrokenIndexError(f"{file} is damaged, its checksum does not match: {CURE}.")
    return index


def refuse_taken(path: str | Path, overwrite: bool) -> None:
    """Refuse to replace an index that somebody may want to keep.

    Raises:
        ConflictError: If one lies there and it is not to be overwritten.
    """
    if not overwrite and (Path(path) / MANIFEST).exists():
        read_manifest(path)  # complains about what is none
        raise ConflictError(
            f"There is an index in {path} already: choose another folder, or replace it with overwrite=True."
        )


def _checksum(index: Any) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
