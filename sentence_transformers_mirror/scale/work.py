"""The work that engines hand out: one file of texts becomes one shard."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.search.entries import columns, windows
from sentence_transformers_mirror.search.rows import WINDOW
from sentence_transformers_mirror.search.shards import KEY, place, shard_schema
from sentence_transformers_mirror.search.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DRAFT = ".partial"  # ends the name of what is not whole yet, which begins with a dot, so that folders leave it out


class Job(NamedTuple):
    """A file of texts and the shard that it gives."""

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """What is the same for all shards of a run, and is told in their footers.

    Args:
        fingerprint: What an index keeps of its model; as are ``model`` and ``dimensions``.
        model: Its name.
        dimensions: Dimensions that are kept, or None.
        column: The column of the texts, as for `encode_shards`; as are ``ids`` and ``metadata``.
        ids: The column of the ids.
        metadata: The columns of the metadata.
    """

    fingerprint: str
    model: str | None
    dimensions: int | None
    column: str | None
    ids: str | None
    metadata: list[str]


@dataclass(frozen=True)
class Work:
    """A model and what it does with every file."""

    model: SentenceTransformer
    plan: Plan
    batch_size: int | None

    def __call__(self, job: Job) -> None:
        """Make one shard.

        Raises:
            OSError, TypeError, ValueError: As for `encode_shards`.
        """
        plan, name, before = self.plan, PurePosixPath(job.target).stem, 0
        digest = hashlib.sha256()
        with _local(job.source) as (file, size):
            texts, ids, metadata = columns(file, plan.column, plan.ids, plan.metadata)
            schema = shard_schema(self._embed(["a"]).shape[1])
            with _written(job.target) as stream, pq.ParquetWriter(stream, schema) as writer:
                for window in windows(texts, ids, metadata, WINDOW):
                    vectors = self._embed(window.texts)
                    try:
                        unit(vectors, window.texts, before)
                    except ValueError as error:
                        raise ValueError(f"{job.source!r}: {error}") from None
                    after = before + len(vectors)
                    names = window.ids or [f"{name}:{number}" for number in range(before, after)]
                    digest.update(json.dumps([[*names], window.texts, window.metadata]).encode())
                    digest.update(vectors.tobytes())
                    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
                    writer.write_table(window.table([*names]).append_column(schema.field("embedding"), lists))
                    before = after
                told = {**asdict(plan), "version": 1, "rows": before, "bytes": size, "digest": digest.hexdigest()}
                writer.add_key_value_metadata({KEY: json.dumps(told).encode()})

    def _embed(self, texts: list[str]) -> np.ndarray:
        vectors = embed(
            self.model,
            texts,
            encode="encode_document",
            batch_size=self.batch_size,
            truncate_dim=self.plan.dimensions,
        )
        return vectors.astype(np.float32, copy=False)

    def packed(self) -> bytes:
        """As bytes for other processes, which may have other devices."""
        on_cpu = self.model.device.type == "cpu"
        return pickle.dumps(self if on_cpu else replace(self, model=deepcopy(self.model).cpu()))

    @staticmethod
    def unpacked(packed: bytes, device: str, threads: int) -> Work:
        """In another process: what was packed, on a device and with so many threads."""
        import torch

        torch.set_num_threads(threads)
        work = pickle.loads(packed)
        work.model.to(device)
        return work


def sweep(jobs: list[Job]) -> None:
    """Delete what runs that were killed left of some shards."""
    mine: dict[str, set[str]] = {}
    for job in jobs:
        system, path = place(job.target)
        if isinstance(system, fs.LocalFileSystem):
            mine.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
    for folder, names in mine.items():
        for file in Path(folder).glob(f".*{_DRAFT}"):
            if file.name[1 : -len(_DRAFT)].rpartition(".")[0] in names:
                file.unlink(missing_ok=True)


@contextmanager
def _local(source: str) -> Iterator[tuple[Path, int | None]]:
    """A file on this machine, and its bytes."""
    system, path = place(source)
    size = system.get_file_info(path).size
    if isinstance(system, fs.LocalFileSystem):
        yield Path(path), size
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, PurePosixPath(path).name)
        with system.open_input_stream(path) as stream, file.open("wb") as kept:
            shutil.copyfileobj(stream, kept, 1 << 20)
        yield file, size


@contextmanager
def _written(target: str) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole; in an object store, which knows no half objects, put there once."""
    system, path = place(target)
    if not isinstance(system, fs.LocalFileSystem):
        with tempfile.TemporaryFile() as kept:
            yield kept
            kept.seek(0)
            with system.open_output_stream(path) as stream:
                shutil.copyfileobj(kept, stream, 1 << 20)
        return
    draft = Path(path).with_name(f".{PurePosixPath(path).name}.{secrets.token_hex(4)}{_DRAFT}")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and Path(path).parent.is_dir():
            raise OSError(
                f"{target!r} was not written, another run that makes the same shard swept it away: start it again, "
                "and give each run other files."
            ) from error
        raise OSError(
            f"{target!r} could not be written, other shards are whole: {error.strerror or error}."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
