"""How an index gets on disk. The format is written down in docs/index-format.md.

Files are written under new names and never changed; then the manifest is replaced, which is the only commit point.
Whatever interrupts a save, the folder holds either the old index or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.search.blob import HEADER, npy_header, unharmed
from sentence_transformers_mirror.search.schema import ENDINGS, file_name
from sentence_transformers_mirror.search.segments import SCHEMA, Segment
from sentence_transformers_mirror.search.store import (
    FORMAT,
    MANIFEST,
    VERSION,
    _checksum,
    read_manifest,
    read_segment,
)

_LOCK = "lock"
_FILE_NAME = re.compile("|".join(map(file_name, ENDINGS)))


class Save:
    """One save, made by `saving`: new files first, then `commit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = str(folder.resolve())
        self.current = read_manifest(folder) if (folder / MANIFEST).exists() else None
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
        return read_segment(self.folder, record, dimension, schema, mapped=True)[0]

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
            stream.write(npy_header(array.dtype, array.shape))
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
            vectors.write(npy_header(np.float32, (writer.rows, writer.dimension)))
        writer.record = {"rows": writer.rows, "vectors": self.record(names[0]), "entries": self.record(names[1])}

    def commit(self, index: dict[str, Any]) -> None:
        """Make a manifest the one of the folder, and sweep what it does not name.

        Raises:
            OSError: If the disk refuses; `saving` says in which state the folder then is.
        """
        index = {**index, "tag": self.tag}
        with self.file("draft") as stream:
            whole = {"format": FORMAT, "version": VERSION, "checksum": _checksum(index), "index": index}
            stream.write(json.dumps(whole, indent=1).encode())
        _sync_folder(self.folder)
        _replace(self.fresh[-1], self.folder / MANIFEST)
        _sync_folder(self.folder)
        named = set(_names(index))
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
        vectors.write(bytes(HEADER))  # the number of rows is known at the end

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
        if (folder / MANIFEST).exists():
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


def _names(index: dict[str, Any]) -> Iterator[str]:
    for record in index["segments"]:
        yield record["vectors"][0]
        yield record["entries"][0]
        for part in (record.get("words") or {"parts": []})["parts"]:
            yield part["file"][0]
    for part in ("removed", "structure"):
        if index[part] is not None:
            yield index[part]["file"][0]


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
