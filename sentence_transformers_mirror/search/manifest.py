"""Between the files that `store` reads and writes and the `Snapshot` that is searched."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import printable, quoted
from sentence_transformers_mirror.search import store, words
from sentence_transformers_mirror.search.blob import Blob, unharmed
from sentence_transformers_mirror.search.choosing import Choice, choose
from sentence_transformers_mirror.search.saving import Save
from sentence_transformers_mirror.search.segments import Segment
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.structure import Structure, read_structure

logger = logging.getLogger(__name__)

KeptStructure = tuple[Any, str, dict[str, Any]]  # a structure, the folder that it is kept in, and its record there


def write_segment(save: Save, segment: Segment, language: str | None) -> dict[str, Any]:
    """The record of a segment and its words, which are written if the folder does not hold them yet."""
    record = segment.files[1] if segment.files is not None and segment.files[0] == save.home else {}
    if not record or not save.has(record):
        if segment.mapped and segment.files is not None and not unharmed(*segment.files):
            raise BrokenIndexError(
                f"Files of the index in {segment.files[0]} were damaged or deleted since it was opened: restore the "
                "folder from a copy or build the index again."
            )
        with save.segment(segment.entries.schema) as writer:
            writer.append(segment.vectors, segment.entries)
        record = {**writer.record, "words": record.get("words")}
    kept, reader = record.get("words"), words.reader(language)
    if kept is None or kept["reader"] != reader or not save.has(_files(kept)):
        # Not kept, if they are not there yet: texts need not fit memory, and so need their words not.
        made = segment.words_now() or words.postings(segment.passages(), language)
        parts = [{"rows": len(part), "file": save.table("words", part.table)} for part in made]
        record = {**record, "words": {"reader": reader, "parts": parts}}
    return record


def read_words_later(segment: Segment, folder: Path) -> None:
    """Let the words that a save has just written be read from where they lie."""
    if segment.files is not None and segment.read_words is None and segment.words_now() is None:
        parts = segment.files[1]["words"]["parts"]
        with contextlib.suppress(BrokenIndexError, OSError):  # only a cache, and the index is saved
            blobs = [Blob(folder, part["file"], mapped=True) for part in parts]
            segment.read_words = functools.partial(_read_words, blobs, parts)


def _files(kept: dict[str, Any]) -> dict[str, Any]:
    return {str(number): part["file"] for number, part in enumerate(kept["parts"])}


def write_removed(save: Save, snapshot: Snapshot) -> dict[str, Any] | None:
    """The record of the rows that were removed, None if there are none."""
    if snapshot.size == len(snapshot.removed):
        return None
    rows = np.flatnonzero(snapshot.removed)
    return {"file": save.array("removed", rows), "rows": len(rows)}


def write_structure(save: Save, snapshot: Snapshot, kept: KeptStructure | None) -> dict[str, Any] | None:
    """The record of the FAISS structure, None if there is none; it is written if the folder does not hold it yet."""
    if snapshot.structure is None:
        return None
    if kept is not None:
        structure, home, record = kept
        if structure is snapshot.structure and home == save.home and save.has({"faiss": record["file"]}):
            return record
    structure = snapshot.loaded
    if structure is None:
        return None
    with save.file("faiss") as stream:
        structure.write(stream)
    return {
        "file": save.record(save.fresh[-1]),
        "covered": len(structure.order),
        "held_out": structure.order[-snapshot.report["sample"] :].tolist(),
        "effort": structure.effort,
        "depth": structure.depth,
    }


def restore(contents: store.Contents, path: str | Path, with_faiss: bool = True) -> tuple[Snapshot, Choice]:
    """What is searched, and what was asked of it.

    Args:
        contents: What `store.read` gives.
        path: The folder, for messages.
        with_faiss: Whether FAISS may read its file; otherwise the structure is made anew.

    Raises:
        BrokenIndexError: If the manifest is not one of an index.
    """
    manifest = contents.index
    try:
        choice = Choice(**manifest["choice"])
        snapshot = Snapshot(
            contents.segments,
            contents.removed,
            None,
            manifest["report"],
            manifest["calibration"],
            manifest["next_id"],
            words.check_language(manifest.get("language")),
            manifest.get("passages"),
        )
        for segment, record, blobs in zip(contents.segments, manifest["segments"], contents.words, strict=True):
            if blobs is not None and record["words"]["reader"] == words.reader(snapshot.language):
                segment.read_words = functools.partial(_read_words, blobs, record["words"]["parts"])
        if manifest["structure"] is not None:
            snapshot = replace(snapshot, structure=_structure_loader(contents, choice, snapshot, with_faiss))
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenIndexError(f"{path} has a manifest that describes no index: {quoted(error, 80)}.") from error
    return snapshot, choice


def verify(path: str | Path) -> dict[str, Any]:
    """Read and verify every byte of an index on disk.

    The file of FAISS has its checksum verified and is not given to FAISS, which cannot check what it reads.

    Returns:
        ``texts``, ``files`` and ``bytes``, as numbers.

    Raises:
        BrokenIndexError: If anything is damaged, naming the file.
    """
    contents = store.read(path)
    manifest = contents.index
    ids = list(restore(contents, path)[0].ids())
    if len(set(ids)) != len(ids):
        raise BrokenIndexError(f"{path} has an id twice: build the index again.")
    for record, segment in zip(manifest["segments"], contents.segments, strict=True):
        lengths = np.linalg.norm(segment.vectors, axis=1)
        if not np.allclose(lengths, 1, atol=1e-4):
            raise BrokenIndexError(f"{Path(path, record['vectors'][0])} has vectors that are no unit vectors.")
        for _ in segment.all_metadata():
            pass
    for record, blobs in zip(manifest["segments"], contents.words, strict=True):
        if record.get("words") is not None:
            try:
                if blobs is None:
                    raise ValueError("damaged or missing")
                _read_words(blobs, record["words"]["parts"])
            except ValueError as error:
                name = ", ".join(part["file"][0] for part in record["words"]["parts"])
                raise BrokenIndexError(
                    f"{Path(path, name)}: {error}; load the index and save it, which repairs it."
                ) from error
    if manifest["structure"] is not None and contents.faiss is None:
        file = Path(path, manifest["structure"]["file"][0])
        raise BrokenIndexError(f"{file} is damaged or missing: load the index and save it, which repairs it.")
    return {
        "texts": len(ids),
        "files": len(contents.blobs) + 1,
        "bytes": sum(blob.file.stat().st_size for blob in contents.blobs),
    }


def _read_structure(blob: Blob, index: dict[str, Any]) -> Structure:
    numbers = {key: value for key, value in index["structure"].items() if key != "file"}
    return read_structure(blob.verified(), index["dimension"], **numbers)


def _read_words(blobs: list[Blob], parts: list[dict[str, Any]]) -> tuple[words.Postings, ...]:
    """The postings of a segment.

    Raises:
        ValueError: If they are damaged, or of other texts.
    """
    sizes = [part["rows"] for part in parts]  # those of the segment together, as the schema has it
    return tuple(words.Postings(blob.table(words.SCHEMAS), size) for blob, size in zip(blobs, sizes, strict=True))


def _structure_loader(
    contents: store.Contents, choice: Choice, snapshot: Snapshot, with_faiss: bool
) -> Callable[[], Structure | None]:
    """A function that reads the structure once, or makes it again where its file is damaged, gone or not trusted."""
    blob, index, folder = contents.faiss, contents.index, contents.home[0]

    def made() -> Structure | None:
        wanted = replace(choice, kind=snapshot.report["kind"])
        try:
            return choose(snapshot.vectors, wanted, snapshot.alive)[0]
        except (ValueError, MemoryError) as error:
            raise BrokenIndexError(
                f"The structure of the index in {folder} cannot be made again ({error}): build the index again."
            ) from error

    @functools.cache
    def load() -> Structure | None:
        nonlocal blob
        if not with_faiss:
            return made()
        try:
            if blob is not None:
                return _read_structure(blob, index)
        except ValueError as error:
            logger.warning(printable(error))
        finally:
            blob = None  # the structure holds all that was in it
        logger.warning(
            f"The FAISS structure of the index in {folder} is damaged or missing; it is made again from the vectors, "
            "which are whole. Save the index to keep it."
        )
        return made()

    return load
