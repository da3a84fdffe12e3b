"""Shards made on this machine, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from sentence_transformers_mirror.scale.work import Job, Work

_work: Any = None  # in a worker


def run(work: Work, jobs: list[Job], workers: int | None, threads: int | None, done: Callable[[], object]) -> None:
    """Make shards.

    Args:
        work: What is done with each file.
        jobs: The shards that are not there yet.
        workers: Processes; by default one, or one a GPU.
        threads: Cores of each.
        done: A function that is called after each shard.

    Raises:
        OSError, TypeError, ValueError: As for `encode_shards`.
    """
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
    """In a worker: take the model."""
    global _work
    end_with_parent()
    _work = Work.unpacked(packed, devices.get(), threads)


def end_with_parent() -> None:
    """In a process that another one started: do not outlive it, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _make(job: Job) -> None:
    _work(job)
