"""Read a table that somebody else may have written: nothing is believed before it was checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

_MAGIC = b"ARROW1\0\0"


def read_table(content: np.ndarray, schemas: Sequence[pa.Schema], nullable: Sequence[str] = ()) -> pa.Table:
    """The table of an Arrow IPC file, without a copy.

    The messages are read one after the other, and not by the places that the end of the file names, so that what is
    checked is what is read.

    Args:
        content: The bytes, uint8.
        schemas: The schemas of which the columns must have one.
        nullable: Columns that may have nulls.

    Raises:
        ValueError: If it is no such file, is compressed (a small file could fill the memory), has other columns, or
            is not valid in itself.
    """
    if content[: len(_MAGIC)].tobytes() != _MAGIC:
        raise ValueError("it is no Arrow file")
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
    header = field(message, 2)
    kind = field(message, 1)
    is_batch = kind is not None and metadata[kind] == 3
    return is_batch and header is not None and field(follow(header), 3) is not None
