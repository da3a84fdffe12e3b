"""One file of an index, which somebody else may have written: nothing is made of it before it was checked."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.search.manifest import CURE, File, size_of

HEADER = 128  # bytes
_MAGIC = b"ARROW1\0\0"


class Blob:
    """The bytes of a file that a manifest names, read, or mapped and then verified only before they are parsed."""

    def __init__(self, folder: Path, record: File, mapped: bool) -> None:
        self.file, self._checksum = folder / record.name, record.checksum
        actual = size_of(self.file)
        if actual != record.size or not actual:
            raise BrokenIndexError(f"{self.file} is damaged, it has {actual:,} bytes and not {record.size:,}: {CURE}.")
        # Opened now and not when it is needed: a later save may delete the name, but not what is open.
        found = np.memmap(self.file, np.uint8, "r") if mapped else np.fromfile(self.file, np.uint8)
        self._bytes = found.view(np.ndarray)
        if not mapped:
            self.verified  # noqa: B018

    @cached_property
    def verified(self) -> np.ndarray:
        """The bytes, uint8, after their checksum was found to be right."""
        if hashlib.sha256(self._bytes.data).hexdigest() != self._checksum:
            raise BrokenIndexError(f"{self.file} is damaged, its checksum does not match: {CURE}.")
        return self._bytes

    def array(self, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        """The array of an ``npy`` file that must have this type and shape, not copied."""
        size = HEADER + np.dtype(dtype).itemsize * np.prod(shape, dtype=object)
        if self._bytes[:HEADER].tobytes() != npy_header(dtype, shape) or len(self._bytes) != size:
            raise BrokenIndexError(f"{self.file} is damaged, it does not hold {shape} {np.dtype(dtype)}: {CURE}.")
        return self._bytes[HEADER:].view(dtype).reshape(shape)

    def table(self, schemas: Sequence[pa.Schema], nullable: Sequence[str] = ()) -> pa.Table:
        """The table of an Arrow file, not copied; verified first, because a damaged one could crash the reader."""
        content = self.verified
        try:
            return _table(content, schemas, nullable)
        except ValueError as error:
            raise BrokenIndexError(f"{self.file} holds no table of an index ({error}): {CURE}.") from error


def unharmed(folder: str | Path, files: Iterable[File]) -> bool:
    """Whether some files are in a folder, in their sizes."""
    try:
        return all(size_of(Path(folder, file.name)) == file.size for file in files)
    except (OSError, BrokenIndexError):
        return False


def npy_header(dtype: type | np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of an npy file, format 1.0, always of the same length and to the letter, to be compared."""
    text = f"{{'descr': '{np.dtype(dtype).newbyteorder('<').str}', 'fortran_order': False, 'shape': {shape!r}, }}"
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"


def _table(content: np.ndarray, schemas: Sequence[pa.Schema], nullable: Sequence[str]) -> pa.Table:
    """The table of an Arrow IPC file, without a copy, if it has one of these schemas and is valid in itself."""
    if content[: len(_MAGIC)].tobytes() != _MAGIC:
        raise ValueError("it is no Arrow file")
    # Read one message after the other, and not by the places that the end of the file names, so that what is checked
    # is what is read. A small file that is compressed could fill the memory.
    stream = pa.py_buffer(content)[len(_MAGIC) :]
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            if message.type not in ("schema", "record batch") or _is_compressed(message.metadata.to_pybytes()):
                raise ValueError(f"a {message.type} in it is compressed or none of an index")
        reader = pa.ipc.open_stream(stream)
        if not any(map(reader.schema.equals, schemas)):
            raise ValueError("it has other columns")
        table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, struct.error, EOFError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not valid, {' '.join(str(error).split())[:120]}") from error
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and name not in nullable:
            raise ValueError(f"it has rows without {name}")
    return table


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message says so: field 3 of its record batch, which pyarrow does not show."""

    def field(table: int, number: int) -> int | None:
        """The place of a field of a flatbuffer's table, None if it is left out."""
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        entry = 4 + 2 * number
        if fields < 0 or entry >= struct.unpack_from("<H", metadata, fields)[0]:
            return None
        offset = struct.unpack_from("<H", metadata, fields + entry)[0]
        return table + offset if offset else None

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", metadata, place)[0]

    message = follow(0)
    header, kind = field(message, 2), field(message, 1)
    is_batch = kind is not None and metadata[kind] == 3
    return is_batch and header is not None and field(follow(header), 3) is not None
