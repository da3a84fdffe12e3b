"""What lies on disk, and how it gets there. The format is written down in docs/index-format.md.

Files are written under new names and never changed; then the manifest is replaced, which is the only commit point.
Whatever interrupts a save, the folder holds either the old index or the new one. Nothing in it is pickled or executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.search.segments import CUT, SCHEMA, Segment, check_cut

_FORMAT = "sentence-transformers-mirror index"
_VERSION = 2
_MANIFEST = "manifest.json"
_LOCK = "lock"
_ENDINGS = {
    "vectors": "npy",
    "removed": "npy",
    "entries": "arrow",
    "words": "arrow",
    "faiss": "index",
    "draft": "json",
}
_FILE_NAME = re.compile("|".join(rf"{kind}-[0-9a-f]{{16}}\.{ending}" for kind, ending in _ENDINGS.items()))
_HEADER = 128  # bytes
_CURE = "restore the folder from a copy or build the index again"


class BrokenIndexError(ValueError):
    """A folder holds no index, or one that is damaged or of a newer format. The message names the file."""


class ConflictError(ValueError):
    """Another program holds the folder for writing, or changed the index in it since it was loaded."""


class Blob:
    """The bytes of one file, checked before anything but a plain array is made of them.

    Args:
        folder: Of the index.
        record: ``[name, bytes, SHA-256]``, from a manifest.
        mapped: Whether to map the file, and verify its checksum only when asked to, instead of reading it.

    Raises:
        BrokenIndexError: If the file has another size or checksum.
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, folder: Path, record: list[Any], mapped: bool) -> None:
        name, size, self._checksum = record
        self.file = folder / name
        actual = self.file.stat().st_size
        if actual != size:
            raise BrokenIndexError(f"{self.file} is damaged, it has {actual:,} bytes and not {size:,}: {_CURE}.")
        # Opened now and not when it is needed: a later save may delete the name, but not what is open.
        self._bytes = (
            np.memmap(self.file, np.uint8, "r").view(np.ndarray) if mapped else np.fromfile(self.file, np.uint8)
        )
        self._verified = False
        if not mapped:
            self.verified()

    def verified(self) -> np.ndarray:
        """The bytes, uint8, after their checksum was found to be right.

        Raises:
            BrokenIndexError: If it is not.
        """
        if not self._verified:
            if hashlib.sha256(self._bytes.data).hexdigest() != self._checksum:
                raise BrokenIndexError(f"{self.file} is damaged, its checksum does not match: {_CURE}.")
            self._verified = True
        return self._bytes

    def array(self, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        """The array of an ``npy`` file, not copied.

        Raises:
            BrokenIndexError: If its header does not say this type and shape, or its size does not fit.
        """
        header = _npy_header(dtype, shape)
        if self._bytes[:_HEADER].tobytes() != header or len(self._bytes) != _HEADER + np.dtype(
            dtype
        ).itemsize * np.prod(shape, dtype=object):
            raise BrokenIndexError(f"{self.file} is damaged, it does not hold {shape} {np.dtype(dtype)}: {_CURE}.")
        return self._bytes[_HEADER:].view(dtype).reshape(shape)

    def table(self) -> pa.Table:
        """The table of an Arrow file, not copied; verified first, because a damaged one could crash the reader."""
        return pa.ipc.open_file(pa.py_buffer(self.verified())).read_all()

    def entries(self) -> pa.Table:
        """The entries of a segment.

        Raises:
            BrokenIndexError: If they have other columns.
        """
        table = self.table()
        if table.schema not in (SCHEMA, CUT):
            raise BrokenIndexError(f"{self.file} has other columns than the entries of an index: {_CURE}.")
        return table


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
        except (KeyError, TypeError, AttributeError) as error:
            raise BrokenIndexError(f"{folder / _MANIFEST} describes no index ({error!r:.80}): {_CURE}.") from error
        # A save that came in between deletes the files of the manifest that we had read.
        if read_manifest(folder)["tag"] == index["tag"]:
            if missing is None:
                return contents
            raise BrokenIndexError(f"{missing} is missing: {_CURE}.")


def _read(folder: Path, index: dict[str, Any], mapped: bool) -> Contents:
    for name in _names(index):
        # Any other name could make us read a file outside the folder.
        if not _FILE_NAME.fullmatch(name):
            raise BrokenIndexError(f"{folder / _MANIFEST} names {name!r}, which is no file of an index: {_CURE}.")
    segments, blobs, words, lost = [], [], [], False
    home = str(folder.resolve())
    for record in index["segments"]:
        vectors, entries = (Blob(folder, record[kind], mapped) for kind in ("vectors", "entries"))
        blobs += [vectors, entries]
        segment = Segment(
            vectors.array(np.float32, (record["rows"], index["dimension"])),
            _table(entries, record["rows"]),
            (home, record),
        )
        if not mapped:
            segment.entries  # noqa: B018  # now, rather than at the first hit
        segments.append(segment)
        words.append(None)
        if record.get("words") is not None:
            try:
                words[-1] = [Blob(folder, part["file"], mapped) for part in record["words"]["parts"]]
                blobs += words[-1]
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
            raise BrokenIndexError(f"{blob.file} names rows that do not exist: {_CURE}.")
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


def _table(blob: Blob, rows: int) -> Callable[[], pa.Table]:
    def load() -> pa.Table:
        table = blob.entries()
        if table.num_rows != rows:
            raise BrokenIndexError(f"{blob.file} has {table.num_rows} rows and not {rows}: {_CURE}.")
        try:
            check_cut(table)
        except ValueError as error:
            raise BrokenIndexError(f"{blob.file}: {error} {_CURE.capitalize()}.") from None
        return table

    return load


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an index, after its checksum was found to be right.

    Raises:
        BrokenIndexError: If there is none, or it is damaged, of something else, or of a newer format.
    """
    file = Path(folder) / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenIndexError(f"{folder} holds no index, there is no {file.name} in it: check the path.") from None
    except (ValueError, RecursionError):
        raise BrokenIndexError(f"{file} is damaged or no part of an index, it is not valid JSON: {_CURE}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise BrokenIndexError(f"{file} belongs to something else than an index of this package: check the path.")
    version = manifest.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise BrokenIndexError(
            f"{file} is of format version {version} and this release reads up to {_VERSION}: "
            "upgrade sentence-transformers-mirror."
        )
    index = manifest.get("index")
    if (
        version not in range(1, _VERSION + 1)
        or manifest.get("checksum") != _checksum(index)
        or not isinstance(index, dict)
    ):
        raise BrokenIndexError(f"{file} is damaged, its checksum does not match: {_CURE}.")
    return index


class Save:
    """One save, made by `saving`: new files first, then `commit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = str(folder.resolve())
        self.current = read_manifest(folder) if (folder / _MANIFEST).exists() else None
        self.fresh: list[Path] = []

    @contextlib.contextmanager
    def file(self, kind: str) -> Iterator[BinaryIO]:
        """A new file, which is on the disk and not only on its way there when the context closes."""
        file = self.folder / f"{kind}-{secrets.token_hex(8)}.{_ENDINGS[kind]}"
        self.fresh.append(file)
        with _create(file) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())

    def has(self, files: dict[str, Any]) -> bool:
        """Whether the files of some records are here."""
        records = [record for record in files.values() if isinstance(record, list)]
        return all((self.folder / name).is_file() for name, *_ in records)

    def record(self, file: Path) -> list[Any]:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return [file.name, file.stat().st_size, digest.hexdigest()]

    def array(self, kind: str, array: np.ndarray) -> list[Any]:
        """Write an array; returns the record of its file."""
        with self.file(kind) as stream:
            stream.write(_npy_header(array.dtype, array.shape))
            stream.write(array.data)
        return self.record(self.fresh[-1])

    def table(self, kind: str, table: pa.Table) -> list[Any]:
        """Write a table; returns the record of its file."""
        with self.file(kind) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        return self.record(self.fresh[-1])

    @contextlib.contextmanager
    def segment(self, schema: pa.Schema = SCHEMA) -> Iterator[SegmentWriter]:
        """Write a segment piece by piece; its record is there when the context closes."""
        with self.file("vectors") as vectors, self.file("entries") as entries:
            names = self.fresh[-2:]
            with pa.ipc.new_file(entries, schema) as table:
                writer = SegmentWriter(vectors, table)
                yield writer
            vectors.seek(0)
            vectors.write(_npy_header(np.float32, (writer.rows, writer.dimension)))
        writer.record = {"rows": writer.rows, "vectors": self.record(names[0]), "entries": self.record(names[1])}

    def commit(self, index: dict[str, Any]) -> str:
        """Make a manifest the one of the folder, and sweep what it does not name.

        Returns:
            The tag of this save.
        """
        index = {**index, "tag": secrets.token_hex(8)}
        with self.file("draft") as stream:
            whole = {"format": _FORMAT, "version": _VERSION, "checksum": _checksum(index), "index": index}
            stream.write(json.dumps(whole, indent=1).encode())
        _sync_folder(self.folder)
        _replace(self.fresh.pop(), self.folder / _MANIFEST)
        self.fresh.clear()
        _sync_folder(self.folder)
        named = {name for name in _names(index)}
        for file in list(self.folder.iterdir()):
            if _FILE_NAME.fullmatch(file.name) and file.name not in named:
                # Windows does not delete a file that a reader has mapped; a later save tries again.
                with contextlib.suppress(OSError):
                    file.unlink()
        return index["tag"]


class SegmentWriter:
    """Appends rows to the two files of a segment."""

    def __init__(self, vectors: BinaryIO, entries: pa.ipc.RecordBatchFileWriter) -> None:
        self.rows, self.dimension = 0, 0
        self.record: dict[str, Any] = {}
        self._vectors = vectors
        self._entries = entries
        vectors.write(bytes(_HEADER))  # the number of rows is known at the end

    def append(self, vectors: np.ndarray, entries: pa.Table) -> None:
        self._vectors.write(vectors.data)
        self._entries.write_table(entries)
        self.rows += len(vectors)
        self.dimension = vectors.shape[1]


@contextlib.contextmanager
def saving(path: str | Path, timeout: float = 10.0) -> Iterator[Save]:
    """Hold a folder for writing; if the context fails, the files that it made are deleted and the index is as it was.

    Args:
        path: The folder; made if it does not exist.
        timeout: Seconds to wait for another writer.

    Raises:
        BrokenIndexError: If a ``manifest.json`` that is no whole one of this format lies there; it is left alone.
        ConflictError: If another writer holds the folder for longer.
        OSError: If the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = Path(path)
    save = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _MANIFEST).exists():
            read_manifest(folder)  # before a lock is put beside a manifest that is not ours
        with FileLock(folder / _LOCK, timeout=timeout):  # the system releases it when the process dies
            save = Save(folder)
            try:
                yield save
            finally:
                for file in save.fresh:
                    with contextlib.suppress(OSError):
                        file.unlink()
    except Timeout:
        raise ConflictError(f"Another program is writing to {folder}: wait until it has finished.") from None
    except OSError as error:
        cause = error.strerror or error
        raise OSError(f"The index could not be saved in {folder}, what was there is unchanged: {cause}.") from error


def _names(index: dict[str, Any]) -> Iterator[str]:
    for record in index["segments"]:
        yield record["vectors"][0]
        yield record["entries"][0]
        for part in (record.get("words") or {"parts": []})["parts"]:
            yield part["file"][0]
    for part in ("removed", "structure"):
        if index[part] is not None:
            yield index[part]["file"][0]


def _npy_header(dtype: type | np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of an npy file, format 1.0, always of the same length and to the letter, to be compared."""
    text = f"{{'descr': '{np.dtype(dtype).newbyteorder('<').str}', 'fortran_order': False, 'shape': {shape!r}, }}"
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11).encode() + b"\n"


def _checksum(index: Any) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _create(file: Path) -> BinaryIO:
    return file.open("xb")


def _replace(draft: Path, manifest: Path) -> None:
    for attempt in range(50):
        try:
            os.replace(draft, manifest)
            return
        except PermissionError:
            # Windows replaces nothing that is open, and readers open the manifest for a moment.
            if os.name != "nt" or attempt == 49:
                raise
            time.sleep(0.02)


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut; Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
