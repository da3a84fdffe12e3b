"""One file of an index, which somebody else may have written: nothing is made of it before it was checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.search.arrow import read_table
from sentence_transformers_mirror.search.manifest import CURE, File, size_of

HEADER = 128  # bytes


class Blob:
    """The bytes of one file, checked before anything but a plain array is made of them.

    Args:
        folder: The folder of the index.
        record: What a manifest says of it.
        mapped: Whether to map the file, and verify its checksum only when asked to, instead of reading it.

    Raises:
        BrokenIndexError: If the file has another size or checksum.
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, folder: Path, record: File, mapped: bool) -> None:
        name, size, self._checksum = record
        self.file = folder / name
        actual = size_of(self.file)
        if actual != size or not size:
            raise BrokenIndexError(f"{self.file} is damaged, it has {actual:,} bytes and not {size:,}: {CURE}.")
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
                raise BrokenIndexError(f"{self.file} is damaged, its checksum does not match: {CURE}.")
            self._verified = True
        return self._bytes

    def array(self, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        """The array of an ``npy`` file, not copied.

        Raises:
            BrokenIndexError: If its header does not say this type and shape, or its size does not fit.
        """
        header = npy_header(dtype, shape)
        if self._bytes[:HEADER].tobytes() != header or len(self._bytes) != HEADER + np.dtype(dtype).itemsize * np.prod(
            shape, dtype=object
        ):
            raise BrokenIndexError(f"{self.file} is damaged, it does not hold {shape} {np.dtype(dtype)}: {CURE}.")
        return self._bytes[HEADER:].view(dtype).reshape(shape)

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
