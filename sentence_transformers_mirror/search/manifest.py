"""Between the files that `store` reads and writes and the `Snapshot` that is searched."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sentence_transformers_mirror.search import ann, store, words
from sentence_transformers_mirror.search.passages import check_passages
from sentence_transformers_mirror.search.segments import Segment, Snapshot

logger = logging.getLogger(__name__)

Kept = tuple[Any, str, dict[str, Any]]  # a structure, the folder that it is kept in, and its record there


def write_segment(save: store.Save, segment: Segment, language: str | None) -> dict[str, Any]:
    """The record of a segment and its words, which are written if the folder does not hold them yet."""
    record = segment.files[1] if segment.files is not None and segment.files[0] == save.home else {}
    if not record or not save.has({kind: record[kind] for kind in ("vectors", "entries")}):
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
    if segment.read_words is None and segment.words_now() is None:
        parts = segment.files[1]["words"]["parts"]
        blobs = [store.Blob(folder, part["file"], mapped=True) for part in parts]
        segment.read_words = functools.partial(_read_words, blobs, parts, len(segment))


def _files(kept: dict[str, Any]) -> dict[int, Any]:
    return {number: part["file"] for number, part in enumerate(kept["parts"])}


def write_removed(save: store.Save, snapshot: Snapshot) -> dict[str, Any] | None:
    """The record of the rows that were removed, None if there are none."""
    if snapshot.size == len(snapshot.removed):
        return None
    rows = np.flatnonzero(snapshot.removed)
    return {"file": save.array("removed", rows), "rows": len(rows)}


def write_structure(save: store.Save, snapshot: Snapshot, kept: Kept | None) -> dict[str, Any] | None:
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


def restore(contents: store.Contents, path: str | Path) -> tuple[Snapshot, ann.Choice]:
    """What is searched, and what was asked of it.

    Raises:
        BrokenIndexError: If the manifest is not one of an index.
    """
    manifest = contents.index
    try:
        choice = ann.Choice(**manifest["choice"])
        snapshot = Snapshot(
            contents.segments,
            contents.removed,
            None,
            manifest["report"],
            manifest["calibration"],
            manifest["next_id"],
        )
        language, tokens = words.check_language(manifest.get("language")), manifest.get("passages")
        check_passages(tokens)
        snapshot = replace(snapshot, language=language, passages=tokens)
        for segment, record, blobs in zip(contents.segments, manifest["segments"], contents.words, strict=True):
            if blobs is not None and record["words"]["reader"] == words.reader(snapshot.language):
                segment.read_words = functools.partial(_read_words, blobs, record["words"]["parts"], len(segment))
        if manifest["structure"] is not None:
            snapshot = replace(snapshot, structure=_structure_loader(contents, choice, snapshot))
    except (KeyError, TypeError, ValueError) as error:
        raise store.BrokenIndexError(f"{path} has a manifest that describes no index: {error!r:.80}.") from error
    return snapshot, choice


def verify(path: str | Path) -> dict[str, Any]:
    """Read and verify every byte of an index on disk.

    Returns:
        ``texts``, ``files`` and ``bytes``, as numbers.

    Raises:
        BrokenIndexError: If anything is damaged, naming the file.
    """
    contents = store.read(path)
    manifest = contents.index
    ids = list(restore(contents, path)[0].ids())
    if len(set(ids)) != len(ids):
        raise store.BrokenIndexError(f"{path} has an id twice: build the index again.")
    for record, segment in zip(manifest["segments"], contents.segments, strict=True):
        lengths = np.linalg.norm(segment.vectors, axis=1)
        if not np.allclose(lengths, 1, atol=1e-4):
            raise store.BrokenIndexError(f"{Path(path, record['vectors'][0])} has vectors that are no unit vectors.")
    for record, segment, blobs in zip(manifest["segments"], contents.segments, contents.words, strict=True):
        if record.get("words") is not None:
            try:
                if blobs is None:
                    raise ValueError("damaged or missing")
                _read_words(blobs, record["words"]["parts"], len(segment))
            except ValueError as error:
                name = ", ".join(part["file"][0] for part in record["words"]["parts"])
                raise store.BrokenIndexError(
                    f"{Path(path, name)}: {error}; load the index and save it, which repairs it."
                ) from error
    if manifest["structure"] is not None:
        file = Path(path, manifest["structure"]["file"][0])
        if contents.faiss is None:
            raise store.BrokenIndexError(
                f"{file} is damaged or missing: load the index and save it, which repairs it."
            )
        try:
            _read_structure(contents)
        except ValueError as error:
            raise store.BrokenIndexError(f"{file}: {error}") from error
    return {
        "texts": len(ids),
        "files": len(contents.blobs) + 1,
        "bytes": sum(blob.file.stat().st_size for blob in contents.blobs),
    }


def _read_structure(contents: store.Contents) -> ann.Structure:
    numbers = {key: value for key, value in contents.index["structure"].items() if key != "file"}
    return ann.read_structure(contents.faiss.verified(), contents.index["dimension"], **numbers)


def _read_words(blobs: list[store.Blob], parts: list[dict[str, Any]], rows: int) -> tuple[words.Postings, ...]:
    """The postings of a segment.

    Raises:
        ValueError: If they are damaged, or of other texts.
    """
    sizes = [part["rows"] for part in parts]
    if not all(type(size) is int and size >= 0 for size in sizes) or sum(sizes) != rows:
        raise ValueError(f"The postings are of {sizes} texts and not of {rows}.")
    return tuple(words.Postings(blob.table(), size) for blob, size in zip(blobs, sizes, strict=True))


def _structure_loader(
    contents: store.Contents, choice: ann.Choice, snapshot: Snapshot
) -> Callable[[], ann.Structure | None]:
    """A function that reads the structure once, or makes it again where its file is damaged or gone."""

    @functools.cache
    def load() -> ann.Structure | None:
        try:
            if contents.faiss is not None:
                return _read_structure(contents)
        except ValueError as error:
            logger.warning(str(error))
        logger.warning(
            f"The FAISS structure of the index in {contents.home[0]} is damaged or missing; it is made again from the "
            "vectors, which are whole. Save the index to keep it."
        )
        return ann.choose(snapshot.vectors, replace(choice, kind=snapshot.report["kind"]), snapshot.alive)[0]

    return load
