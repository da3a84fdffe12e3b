"""How an index gets on disk. The format is written down in docs/index-format.md.

Files are written under new names and never changed; then the manifest is replaced, which is the only commit point.
Whatever interrupts a save, the folder holds either the old index or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.blob import HEADER, npy_header, unharmed
from sentence_transformers_mirror.search.manifest import (
    ENDINGS,
    MANIFEST,
    File,
    Manifest,
    PostingsFile,
    RemovedFile,
    SegmentFiles,
    StructureFile,
    WordsFiles,
    file_name,
    tag_of,
)
from sentence_transformers_mirror.search.segments import Segment, entries_schema
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.store import read_segment, words_reader
from sentence_transformers_mirror.search.structure import Structure

_FILE_NAME = re.compile("|".join(map(file_name, ENDINGS)))


class KeptStructure(NamedTuple):
    """A structure, or the function that loads it, and where its file lies: the folder, and what a manifest says."""

    structure: Structure | Callable[[], Structure | None]
    home: str
    record: StructureFile


class Save:
    """One save, made by `saving`: new files first, then `commit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = str(folder.resolve())
        self.replaced = tag_of(folder)  # of the save that lies there now, if any
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

    @property
    def committed(self) -> bool | None:
        """Whether the manifest of the folder is that of this save; None where it cannot be read."""
        with contextlib.suppress(BrokenIndexError, OSError):
            return tag_of(self.folder) == self.tag
        return None

    def array(self, kind: str, array: np.ndarray) -> File:
        with self.file(kind) as stream:
            stream.write(npy_header(array.dtype, array.shape))
            stream.write(array.data)
        return _recorded(stream)

    def table(self, kind: str, table: pa.Table) -> File:
        with self.file(kind) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        return _recorded(stream)

    def rows(self, rows: Iterable[tuple[np.ndarray, pa.Table]], schema: pa.Schema) -> tuple[SegmentFiles, int]:
        """Write vectors and entries as they come, in one segment, without words; the dimension is told, too."""
        count = dimension = 0
        with self.file("vectors") as vectors, self.file("entries") as entries:
            vectors.write(bytes(HEADER))  # the number of rows is known at the end
            with pa.ipc.new_file(entries, schema) as writer:
                for block, table in rows:
                    vectors.write(block.data)
                    writer.write_table(table)
                    count, dimension = count + len(block), block.shape[1]
            vectors.seek(0)
            vectors.write(npy_header(np.float32, (count, dimension)))
        return SegmentFiles(count, _recorded(vectors), _recorded(entries)), dimension

    def segment(self, segment: Segment, snapshot: Snapshot) -> SegmentFiles:
        """Write a segment of a snapshot and its words, if they are not here yet."""
        record = segment.files.get(self.home)
        kept = None if record is None else record.words
        if record is None or not unharmed(self.folder, record.of_rows):  # what was damaged is written again
            whole = _whole(segment, entries_schema(snapshot.passages))
            record, _ = self.rows([(whole.vectors, whole.entries)], whole.entries.schema)
            record = replace(record, words=kept)
        reader = words.reader(snapshot.language)
        if kept is None or kept.reader != reader or not unharmed(self.folder, (part.file for part in kept.parts)):
            # Not kept, if they are not there yet: texts need not fit memory, and so need their words not.
            made = segment.postings or words.postings(segment.passages(), snapshot.language)
            # `map` holds no part while the next is made.
            record = replace(record, words=WordsFiles(reader, tuple(map(self._words, made))))
        return record

    def _words(self, part: words.Postings) -> PostingsFile:
        return PostingsFile(len(part), self.table("words", part.table))

    def removed(self, snapshot: Snapshot) -> RemovedFile | None:
        """Write which rows were removed, if any."""
        rows = np.flatnonzero(snapshot.removed)
        return RemovedFile(self.array("removed", rows), len(rows)) if len(rows) else None

    def structure(self, snapshot: Snapshot, kept: KeptStructure | None) -> StructureFile | None:
        """Write the structure of FAISS, if there is one and it is not here yet."""
        if kept is not None and kept.structure is snapshot.structure and kept.home == self.home:
            if unharmed(self.folder, [kept.record.file]):
                return kept.record
        structure, report = snapshot.loaded, snapshot.report
        if structure is None:
            return None
        assert report is not None and report.sample is not None  # measured when the structure was made
        with self.file("faiss") as stream:
            structure.write(stream)
        held_out = structure.order[-report.sample :].tolist()
        return StructureFile(_recorded(stream), len(structure.order), held_out, structure.effort, structure.depth)

    def note(self, segment: Segment, record: SegmentFiles) -> None:
        """Let a segment know where it lies now, and read the words that were just written from there."""
        segment.files = {**segment.files, self.home: record}  # whole, since searches may read it
        if segment.read_words is None and segment.postings is None and record.words is not None:
            with contextlib.suppress(BrokenIndexError, OSError):  # only a cache, and the index is saved
                segment.read_words = words_reader(self.folder, record.words, mapped=True)

    def commit(self, manifest: Manifest) -> None:
        """Make a manifest, with the tag of this save, the one of the folder, and sweep what it does not name."""
        with self.file("draft") as stream:
            stream.write(replace(manifest, tag=self.tag).written())
        _sync_folder(self.folder)
        _replace(self.fresh[-1], self.folder / MANIFEST)
        _sync_folder(self.folder)
        named = {file.name for file in manifest.files()}
        ours = [file for file in self.folder.iterdir() if _FILE_NAME.fullmatch(file.name)]
        _delete(file for file in ours if file.name not in named)


@contextlib.contextmanager
def saving(path: str | Path, timeout: float = 10.0) -> Iterator[Save]:
    """Hold a folder for writing; if the context fails, its files are deleted and the index is as it was."""
    from filelock import FileLock, Timeout

    folder = Path(path)
    save = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tag_of(folder)  # complains before a lock is put beside a manifest that is not ours
        lock = folder / "lock"
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            raise BrokenIndexError(f"{lock} is no regular file, and locking it would write elsewhere: delete it.")
        with FileLock(lock, timeout=timeout):  # the system releases it when the process dies
            save = Save(folder)
            try:
                yield save
            finally:
                # Where the manifest cannot be read the files stay: it may name them, and the next save sweeps.
                if save.committed is False:
                    _delete(save.fresh)
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


def _whole(segment: Segment, schema: pa.Schema) -> Segment:
    """A segment; one that is mapped from some folder that still has its files."""
    if segment.source is None or unharmed(segment.source[0], segment.source[1].of_rows):
        return segment
    for folder, record in segment.files.items():
        if unharmed(folder, record.of_rows):
            return read_segment(Path(folder), record, segment.vectors.shape[1], schema, mapped=True)
    raise BrokenIndexError(
        f"Files of the index in {segment.source[0]} were damaged or deleted since it was opened: restore the "
        "folder from a copy or build the index again."
    )


def _recorded(written: BinaryIO) -> File:
    file, digest = Path(written.name), hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return File(file.name, file.stat().st_size, digest.hexdigest())


def _create(file: Path) -> BinaryIO:
    return file.open("xb")


def _delete(files: Iterable[Path]) -> None:
    for file in files:
        # Windows does not delete a file that a reader has mapped; a later save tries again.
        with contextlib.suppress(OSError):
            file.unlink()


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
