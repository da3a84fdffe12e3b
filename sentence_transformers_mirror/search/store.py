"""What lies on disk, and how it gets there. The format is written down in docs/index-format.md.

Files are written under new names and never changed; then the manifest is replaced, which is the only commit point.
Whatever interrupts a save, the folder holds either the old index or the new one. Nothing in it is pickled or executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.search.arrow import read_table
from sentence_transformers_mirror.search.schema import ENDINGS, check_manifest, file_name
from sentence_transformers_mirror.search.segments import NULLABLE, SCHEMA, Segment, check_cut, entries_schema

_FORMAT = "sentence-transformers-mirror index"
_VERSION = 2
_MANIFEST = "manifest.json"
_LOCK = "lock"
_FILE_NAME = re.compile("|".join(map(file_name, ENDINGS)))
_HEADER = 128  # bytes
_CURE = "restore the folder from a copy or build the index again"


class Blob:
    """The bytes of one file, checked before anything but a plain array is made of them.

    Args:
        folder: The folder of the index.
        record: ``[name, bytes, SHA-256]``, from a manifest.
        mapped: Whether to map the file, and verify its checksum only when asked to, instead of reading it.

    Raises:
        BrokenIndexError: If the file has another size or checksum.
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, folder: Path, record: list[Any], mapped: bool) -> None:
        name, size, self._checksum = record
        self.file = folder / name
        actual = _size(self.file)
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

    def table(self, schemas: Sequence[pa.Schema], nullable: Sequence[str] = ()) -> pa.Table:
        """The table of an Arrow file, not copied; verified first, because a damaged one could crash the reader.

        Args:
            schemas, nullable: As for `read_table`.

        Raises:
            BrokenIndexError: If the file is damaged or holds something else.
        """
        try:
            return read_table(self.verified(), schemas, nullable)
        except ValueError as error:
            if isinstance(error, BrokenIndexError):
                raise
            raise BrokenIndexError(f"{self.file} holds no table of an index ({error}): {_CURE}.") from error


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
                f"{error.filename or folder} cannot be read ({error.strerror or error}): {_CURE}."
            ) from error
        # A save that came in between deletes the files of the manifest that we had read.
        if read_manifest(folder)["tag"] == index["tag"]:
            if missing is None:
                return contents
            raise BrokenIndexError(f"{missing} is missing: {_CURE}.")


def _read(folder: Path, index: dict[str, Any], mapped: bool) -> Contents:
    try:
        check_manifest(index)
    except ValueError as error:
        raise BrokenIndexError(f"{folder / _MANIFEST} describes no index, {error}: {_CURE}.") from error
    segments, blobs, words, lost = [], [], [], False
    schema, home = entries_schema(index.get("passages")), str(folder.resolve())
    for record in index["segments"]:
        segment, files = _segment(folder, record, index["dimension"], schema, mapped)
        blobs += files
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


def _segment(
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


def _size(file: Path) -> int:
    """Of a regular file, or a link to one: reading anything else may wait for ever.

    Raises:
        BrokenIndexError: If it is none.
        FileNotFoundError: If there is none.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BrokenIndexError(f"{file} is no regular file: {_CURE}.")
    return found.st_size


def _table(blob: Blob, rows: int, schema: pa.Schema) -> Callable[[], pa.Table]:
    def load() -> pa.Table:
        table = blob.table([schema], NULLABLE)
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
        _size(file)
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenIndexError(f"{folder} holds no index, there is no {file.name} in it: check the path.") from None
    except BrokenIndexError:
        raise
    except OSError as error:
        raise BrokenIndexError(f"{file} cannot be read ({error.strerror or error}): {_CURE}.") from None
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
        or not isinstance(index, dict)
        or manifest.get("checksum") != _checksum(index)
        or not isinstance(index.get("tag"), str)
    ):
        raise BrokenIndexError(f"{file} is damaged, its checksum does not match: {_CURE}.")
    return index


class Save:
    """One save, made by `saving`: new files first, then `commit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = str(folder.resolve())
        self.current = read_manifest(folder) if (folder / _MANIFEST).exists() else None
        self.tag = secrets.token_hex(8)  # of this save
        self.fresh: list[Path] = []

    @contextlib.contextmanager
    def file(self, kind: str) -> Iterator[BinaryIO]:
        """A new file, which is on the disk and not only on its way there when the context closes."""
        file = self.folder / f"{kind}-{secrets.token_hex(8)}.{ENDINGS[kind]}"
        self.fresh.append(file)
        with _create(file) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())

    def has(self, files: dict[str, Any]) -> bool:
        """Whether the files of some records are here, in their sizes: what was damaged is written again."""
        return unharmed(self.folder, files)

    def opened(self, record: dict[str, Any], dimension: int, schema: pa.Schema) -> Segment:
        """A segment that this save has written, memory-mapped."""
        return _segment(self.folder, record, dimension, schema, mapped=True)[0]

    @property
    def committed(self) -> bool:
        """Whether the manifest of the folder is that of this save."""
        with contextlib.suppress(BrokenIndexError, OSError):
            return read_manifest(self.folder)["tag"] == self.tag
        return False

    def clean(self) -> None:
        """Delete the files of a save that did not come to its commit."""
        if not self.committed:
            for file in self.fresh:
                with contextlib.suppress(OSError):
                    file.unlink()

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

    def commit(self, index: dict[str, Any]) -> None:
        """Make a manifest the one of the folder, and sweep what it does not name.

        Raises:
            OSError: If the disk refuses; `saving` says in which state the folder then is.
        """
        index = {**index, "tag": self.tag}
        with self.file("draft") as stream:
            whole = {"format": _FORMAT, "version": _VERSION, "checksum": _checksum(index), "index": index}
            stream.write(json.dumps(whole, indent=1).encode())
        _sync_folder(self.folder)
        _replace(self.fresh[-1], self.folder / _MANIFEST)
        _sync_folder(self.folder)
        named = {name for name in _names(index)}
        for file in list(self.folder.iterdir()):
            if _FILE_NAME.fullmatch(file.name) and file.name not in named:
                # Windows does not delete a file that a reader has mapped; a later save tries again.
                with contextlib.suppress(OSError):
                    file.unlink()


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
        lock = folder / _LOCK
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            raise BrokenIndexError(f"{lock} is no regular file, and locking it would write elsewhere: delete it.")
        with FileLock(folder / _LOCK, timeout=timeout):  # the system releases it when the process dies
            save = Save(folder)
            try:
                yield save
            finally:
                save.clean()
    except Timeout:
        raise ConflictError(f"Another program is writing to {folder}: wait until it has finished.") from None
    except OSError as error:
        cause = error.strerror or error
        if save is not None and save.committed:
            raise OSError(
                f"The index is saved in {folder} and whole, but the disk did not confirm it, and a power cut may take "
                f"it back: save it again ({cause})."
            ) from error
        raise OSError(f"The index could not be saved in {folder}, what was there is unchanged: {cause}.") from error


def unharmed(folder: str | Path, records: dict[str, Any]) -> bool:
    """Whether the files of some records are in a folder, in their sizes."""
    try:
        files = [record for record in records.values() if isinstance(record, list)]
        return all(_size(Path(folder, name)) == size for name, size, _ in files)
    except (OSError, BrokenIndexError):
        return False


def refuse_taken(path: str | Path, overwrite: bool) -> None:
    """Refuse to replace an index that somebody may want to keep.

    Raises:
        ConflictError: If one lies there and it is not to be overwritten.
    """
    if not overwrite and (Path(path) / _MANIFEST).exists():
        read_manifest(path)  # complains about what is none
        raise ConflictError(
            f"There is an index in {path} already: choose another folder, or replace it with overwrite=True."
        )


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
        except OSError as error:
            # Some file systems cannot sync a folder, and there is nothing to be done about it.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)
