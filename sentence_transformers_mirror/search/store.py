"""What lies on disk. The format is written down in docs/index-format.md; nothing of it is pickled or executed."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.blob import Blob
from sentence_transformers_mirror.search.choosing import choose
from sentence_transformers_mirror.search.manifest import (
    CURE,
    MANIFEST,
    Manifest,
    PostingsFile,
    SegmentFiles,
    WordsFiles,
    checksum,
    read_index,
    tag_of,
)
from sentence_transformers_mirror.search.positions import repeated
from sentence_transformers_mirror.search.segments import NULLABLE, Segment, entries_schema, fault_of
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.structure import Structure, read_structure

logger = logging.getLogger(__name__)

_checksum = checksum  # the name by which scripts that forge a manifest know it


@dataclass
class Contents:
    """What `read` found."""

    snapshot: Snapshot
    manifest: Manifest
    home: str  # the resolved folder
    words: list[Callable[[], object]]  # functions that read the words of segments
    lost: list[Path]  # files of caches that are damaged or missing


def read(path: str | Path, mapped: bool = False, with_faiss: bool = True) -> Contents:
    """Read an index, whatever is saved meanwhile.

    Mapped, only manifest, sizes and headers are verified now, entries and FAISS structure before their first use, and
    vectors never. Without FAISS, its file stays unread and the structure is made anew.
    """
    folder = Path(path)
    while True:
        index = read_index(folder)
        missing = None
        try:
            contents = _read(folder, index, mapped, with_faiss)
            if not contents.lost:
                return contents
        except FileNotFoundError as error:
            missing = error.filename
        except OSError as error:
            raise BrokenIndexError(
                f"{error.filename or folder} cannot be read ({error.strerror or error}): {CURE}."
            ) from error
        # A save that came in between deletes the files of the manifest that we had read.
        if read_index(folder)["tag"] == index["tag"]:
            if missing is None:
                return contents
            raise BrokenIndexError(f"{missing} is missing: {CURE}.")


def _read(folder: Path, index: dict[str, Any], mapped: bool, with_faiss: bool) -> Contents:
    try:
        manifest = Manifest.of(index)
    except (TypeError, ValueError) as error:
        raise BrokenIndexError(f"{folder / MANIFEST} describes no index, {error}: {CURE}.") from error
    segments: list[Segment] = []
    readers: list[Callable[[], object]] = []
    lost: list[Path] = []
    home = str(folder.resolve())
    for record in manifest.segments:
        segment = read_segment(folder, record, manifest.dimension, entries_schema(manifest.passages), mapped)
        segments.append(segment)
        if record.words is not None:
            try:
                read_words = words_reader(folder, record.words, mapped)
            except (BrokenIndexError, FileNotFoundError):
                lost += [folder / part.file.name for part in record.words.parts]
                segment.files[home] = replace(record, words=None)
            else:
                readers.append(read_words)
                if record.words.reader == words.reader(manifest.language):
                    segment.read_words = read_words
    removed = np.zeros(manifest.rows, bool)
    if manifest.removed is not None:
        blob = Blob(folder, manifest.removed.file, mapped)
        blob.verified  # noqa: B018  # mapped or not
        rows = blob.array(np.int64, (manifest.removed.rows,))
        if len(rows) and (rows.min() < 0 or rows.max() >= len(removed)):
            raise BrokenIndexError(f"{blob.file} names rows that do not exist: {CURE}.")
        removed[rows] = True
    snapshot = Snapshot(
        tuple(segments),
        removed,
        report=manifest.report,
        calibration=manifest.calibration,
        next_id=manifest.next_id,
        language=manifest.language,
        passages=manifest.passages,
    )
    if manifest.structure is not None:
        faiss = None
        try:  # only a cache: where it is damaged or gone, it is made again from the vectors
            faiss = Blob(folder, manifest.structure.file, mapped)
        except (BrokenIndexError, FileNotFoundError):
            lost.append(folder / manifest.structure.file.name)
        snapshot = replace(snapshot, structure=_structure_loader(faiss, manifest, snapshot, folder, with_faiss))
    return Contents(snapshot, manifest, home, readers, lost)


def read_segment(folder: Path, record: SegmentFiles, dimension: int, schema: pa.Schema, mapped: bool) -> Segment:
    vectors, entries = Blob(folder, record.vectors, mapped), Blob(folder, record.entries, mapped)

    def table() -> pa.Table:
        found = entries.table([schema], NULLABLE)
        if found.num_rows != record.rows:
            raise BrokenIndexError(f"{entries.file} has {found.num_rows} rows and not {record.rows}: {CURE}.")
        if fault := fault_of(found):
            raise BrokenIndexError(f"{entries.file}: {fault} {CURE.capitalize()}.")
        return found

    array = vectors.array(np.float32, (record.rows, dimension))
    return Segment(array, table if mapped else table(), (str(folder.resolve()), record), mapped)


def words_reader(folder: Path, record: WordsFiles, mapped: bool) -> Callable[[], tuple[words.Postings, ...]]:
    """A function that reads the words of a segment from files, which must be there, or raises a `BrokenIndexError`."""
    blobs = [Blob(folder, part.file, mapped) for part in record.parts]

    def postings(blob: Blob, part: PostingsFile) -> words.Postings:
        try:
            return words.Postings(blob.table(words.SCHEMAS), part.rows)
        except ValueError as error:
            raise BrokenIndexError(f"{blob.file}: {error}") from error

    return lambda: tuple(map(postings, blobs, record.parts))


def _structure_loader(
    blob: Blob | None, manifest: Manifest, snapshot: Snapshot, folder: Path, with_faiss: bool
) -> Callable[[], Structure | None]:
    """A function that reads the structure once, or makes it again where its file is damaged, gone or not trusted."""
    record, report = manifest.structure, manifest.report
    assert record is not None and report is not None

    @functools.cache
    def load() -> Structure | None:
        nonlocal blob
        try:
            if blob is not None and with_faiss:
                return read_structure(
                    blob.verified, manifest.dimension, record.covered, record.held_out, record.effort, record.depth
                )
        except ValueError as error:
            logger.warning(printable(error))
        finally:
            blob = None  # the structure holds all that was in it
        if with_faiss:
            logger.warning(
                f"The FAISS structure of the index in {folder} is damaged or missing; it is made again from the "
                "vectors, which are whole. Save the index to keep it."
            )
        try:
            return choose(snapshot.vectors, replace(manifest.choice, kind=report.kind), snapshot.alive)[0]
        except (ValueError, MemoryError) as error:
            raise BrokenIndexError(
                f"The structure of the index in {folder} cannot be made again ({error}): build the index again."
            ) from error

    return load


def verify(path: str | Path) -> dict[str, int]:
    """What ``SearchIndex.verify`` does. FAISS is not given its file, whose checksum is all that can be checked."""
    contents = read(path)
    snapshot, manifest = contents.snapshot, contents.manifest
    if repeated(snapshot.ids, snapshot.count) is not None:
        raise BrokenIndexError(f"{path} has an id twice: build the index again.")
    for record, segment in zip(manifest.segments, snapshot.segments, strict=True):
        # The norms without the squares of all numbers at once.
        if not np.allclose(np.einsum("ij,ij->i", segment.vectors, segment.vectors), 1, atol=2e-4):
            raise BrokenIndexError(f"{Path(path, record.vectors.name)} has vectors that are no unit vectors.")
        deque(segment.all_metadata(), maxlen=0)  # which complains
    cure = "load the index and save it, which repairs it"
    try:
        for read_words in contents.words:
            read_words()
    except BrokenIndexError as error:
        raise BrokenIndexError(f"{error}; {cure}.") from error
    if contents.lost:
        raise BrokenIndexError(f"{', '.join(map(str, contents.lost))}: damaged or missing; {cure}.")
    files = list(manifest.files())
    return {"texts": snapshot.count, "files": len(files) + 1, "bytes": sum(file.size for file in files)}


def refuse_taken(path: str | Path, overwrite: bool) -> None:
    """Refuse to replace an index that somebody may want to keep, with a `ConflictError`."""
    if not overwrite and tag_of(path) is not None:  # complains about what is none
        raise ConflictError(
            f"There is an index in {path} already: choose another folder, or replace it with overwrite=True."
        )
