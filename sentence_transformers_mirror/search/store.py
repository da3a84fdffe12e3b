"""What lies on disk, and how it gets there.

An index is one folder:

- ``vectors-TAG.npy``: the unit vectors, float32, shape (rows, dimension);
- ``texts-TAG.arrow``: an Arrow IPC file with one column ``text``;
- ``manifest.json``: ``format``, ``version``, ``index`` (rows, dimension, ids, fingerprint of the model, and the names
  and SHA-256 checksums of the two files) and ``checksum``, that of ``index`` itself.

A save writes files under new names and then replaces the manifest, the only commit point: whatever interrupts it, the
folder holds either the old index or the new one. Nothing in it is pickled or executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

_FORMAT = "sentence-transformers-mirror index"
_VERSION = 1
_MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"(vectors-[0-9a-f]{16}\.npy|texts-[0-9a-f]{16}\.arrow|draft-[0-9a-f]{16}\.json)")
_CURE = "restore the folder from a copy or build the index again"


class BrokenIndexError(ValueError):
    """A folder holds no index, or one that is damaged or of a newer format. The message names the file."""


@dataclass(frozen=True)
class Contents:
    """Everything that an index keeps, in memory.

    Args:
        vectors: Unit vectors, shape (rows, dimension), float32, C-contiguous.
        texts: One text per row.
        ids: One id per row; ``range(rows)`` where none were given.
        fingerprint: Of the model that made the vectors, a hexadecimal SHA-256.
    """

    vectors: np.ndarray
    texts: pa.LargeStringArray
    ids: Sequence[int | str]
    fingerprint: str


def write(path: str | Path, contents: Contents) -> None:
    """Save an index into a folder, in place of the one that is there.

    Args:
        path: The folder; made if it does not exist.
        contents: What to save.

    Raises:
        BrokenIndexError: If a ``manifest.json`` that is no whole one of this format lies there; it is left alone.
        OSError: If the folder cannot be written; an index that was there is left as it was.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / _MANIFEST
    outdated = []
    if manifest.exists():
        _read_manifest(folder)
        outdated = [file for file in folder.iterdir() if _FILE_NAME.fullmatch(file.name)]
    tag = secrets.token_hex(8)
    vectors, texts, draft = (
        folder / name.format(tag) for name in ("vectors-{}.npy", "texts-{}.arrow", "draft-{}.json")
    )
    with _written(vectors) as stream:
        np.save(stream, contents.vectors, allow_pickle=False)
    table = pa.table({"text": contents.texts})
    with _written(texts) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    rows, dimension = contents.vectors.shape
    index = {
        "rows": rows,
        "dimension": dimension,
        "ids": None if isinstance(contents.ids, range) else contents.ids,
        "fingerprint": contents.fingerprint,
        "files": [[file.name, _sha256(file)] for file in (vectors, texts)],
    }
    with _written(draft) as stream:
        whole = {"format": _FORMAT, "version": _VERSION, "checksum": _checksum(index), "index": index}
        stream.write(json.dumps(whole, indent=1).encode())
    _sync_folder(folder)
    os.replace(draft, manifest)
    _sync_folder(folder)
    for file in outdated:
        # Windows does not delete a file that a reader holds open; the next save tries again.
        with contextlib.suppress(OSError):
            file.unlink()


def read(path: str | Path) -> Contents:
    """Load an index from the folder that ``write`` made, after verifying format, version and every checksum.

    Raises:
        BrokenIndexError: If the folder holds no index, or one that is damaged or of a newer format.
    """
    folder = Path(path)
    index = _read_manifest(folder)
    for name, checksum in index["files"]:
        # Any other name could make us read a file outside the folder.
        if not _FILE_NAME.fullmatch(name):
            raise BrokenIndexError(f"{folder / _MANIFEST} names {name!r}, which is no file of an index: {_CURE}.")
        if not (folder / name).is_file():
            raise BrokenIndexError(f"{folder / name} is missing: {_CURE}.")
        if _sha256(folder / name) != checksum:
            raise BrokenIndexError(f"{folder / name} is damaged, its checksum does not match: {_CURE}.")
    vectors, texts = (folder / name for name, _ in index["files"])
    with pa.OSFile(str(texts)) as stream:
        column = pa.ipc.open_file(stream).read_all().column("text").combine_chunks()
    ids = range(index["rows"]) if index["ids"] is None else index["ids"]
    return Contents(np.load(vectors, allow_pickle=False), column, ids, index["fingerprint"])


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenIndexError(f"{folder} holds no index, there is no {file.name} in it: check the path.") from None
    except ValueError:
        raise BrokenIndexError(f"{file} is damaged or no part of an index, it is not valid JSON: {_CURE}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise BrokenIndexError(f"{file} belongs to something else than an index of this package: check the path.")
    version = manifest.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise BrokenIndexError(
            f"{file} is of format version {version} and this release reads up to {_VERSION}: "
            "upgrade sentence-transformers-mirror."
        )
    if version != _VERSION or manifest.get("checksum") != _checksum(manifest.get("index")):
        raise BrokenIndexError(f"{file} is damaged, its checksum does not match: {_CURE}.")
    return manifest["index"]


def _checksum(index: Any) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """A new file, which is on the disk and not only on its way there when the context closes."""
    with file.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut; Windows has no such call and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
