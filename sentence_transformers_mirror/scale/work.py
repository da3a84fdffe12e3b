"""The work that engines hand out, which makes one shard of one file of texts, and the engine of this machine."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import secrets
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

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
_worker: Any = None  # of this process, if it is one


class Job(NamedTuple):
    """A file of texts and the shard that it gives."""

    source: str
    target: str


@dataclass(frozen=True)
class Work:
    """A model and what it does with every file; the plan is told in the footers of all shards of a run."""

    model: SentenceTransformer
    plan: dict[str, Any]  # an `Identity`, and the columns of texts, ids and metadata
    batch_size: int | None

    def __call__(self, job: Job) -> None:
        """Make one shard."""
        plan, name, before = self.plan, PurePosixPath(job.target).stem, 0
        digest = hashlib.sha256()
        with _local(job.source) as (file, size):
            texts, ids, metadata = columns(file, plan["column"], plan["ids"], plan["metadata"])
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
                told = {**plan, "version": 1, "rows": before, "bytes": size, "digest": digest.hexdigest()}
                writer.add_key_value_metadata({KEY: json.dumps(told).encode()})

    def _embed(self, texts: list[str]) -> np.ndarray:
        options = {"encode": "encode_document", "truncate_dim": self.plan["dimensions"]}
        return embed(self.model, texts, batch_size=self.batch_size, **options).astype(np.float32, copy=False)

    def packed(self) -> bytes:
        """As bytes for other processes, which may have other devices."""
        on_cpu = self.model.device.type == "cpu"
        return pickle.dumps(self if on_cpu else replace(self, model=deepcopy(self.model).cpu()))


class Worker:
    """In another process: work that was packed, on a device and with so many threads."""

    def __init__(self, packed: bytes, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._work = pickle.loads(packed)
        self._work.model.to(device)

    def make(self, job: Job) -> None:
        self._work(job)


def run(work: Work, jobs: list[Job], workers: int | None, threads: int | None, done: Callable[[], object]) -> None:
    """Make the shards of jobs by so many processes, with so many cores each; ``done`` is called after each shard."""
    import torch

    gpus = torch.cuda.device_count() if work.model.device.type == "cuda" else 0
    workers = min(workers or max(gpus, 1), max(len(jobs), 1))
    if workers == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            for job in jobs:
                work(job)
                done()
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()
    for number in range(workers):
        devices.put(f"cuda:{number % gpus}" if gpus else work.model.device.type)
    threads = threads or max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, _begin, (work.packed(), devices, threads)) as pool:
        try:
            for future in as_completed([pool.submit(_make, job) for job in jobs]):
                future.result()
                done()
        except BrokenProcessPool:
            raise OSError(
                "A worker died, most likely for want of memory: start again with fewer workers; the shards that are "
                "made stay."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(packed: bytes, devices: Any, threads: int) -> None:
    global _worker
    end_with_parent()
    _worker = Worker(packed, devices.get(), threads)


def end_with_parent() -> None:
    """In a process that another one started: do not outlive it, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _make(job: Job) -> None:
    _worker.make(job)


def sweep(out: str | Path, names: Collection[str]) -> None:
    """Delete what runs that were killed left of some shards of a folder."""
    system, folder = place(out)
    if isinstance(system, fs.LocalFileSystem):
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
        fs.copy_files(path, str(file), system, fs.LocalFileSystem())
        yield file, size


@contextmanager
def _written(target: str) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole; in an object store, which knows no half objects, put there once."""
    system, path = place(target)
    if not isinstance(system, fs.LocalFileSystem):
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, "shard")
            with draft.open("wb") as file:
                yield file
            fs.copy_files(str(draft), path, fs.LocalFileSystem(), system)
        return
    draft = Path(path).with_name(f".{PurePosixPath(path).name}.{secrets.token_hex(4)}{_DRAFT}")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        how = f"could not be written, other shards are whole: {error.strerror or error}"
        if isinstance(error, FileNotFoundError) and Path(path).parent.is_dir():
            how = (
                "was not written, another run that makes the same shard swept it away: start it again, and give each "
                "run other files"
            )
        raise OSError(f"{target!r} {how}.") from error
    finally:
        draft.unlink(missing_ok=True)
