"""Shards made by a Ray cluster: whole files go to actors, and nothing else is asked of Ray.

An actor may be lost with its node at any time. The file that it worked on then goes to another, so that at most a
shard a worker is made twice; what has the name of a shard is whole either way.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from sentence_transformers_mirror.models import chosen_device
from sentence_transformers_mirror.scale.work import Job, Work

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    import ray
except ImportError as error:
    raise ImportError("engine='ray' needs Ray: pip install 'sentence-transformers-mirror[ray]'.") from error

_THREADS = 4  # cores of an actor
_TRIES = 3  # actors that a file may cost
_FALLS = 8  # actors that may end before they begin, one after the other
_LOOK = 5.0  # seconds between two looks at what the cluster has


class Encoder:
    """An actor: a model on one GPU, or on some cores."""

    def __init__(self, packed: bytes, threads: int, on_gpu: bool) -> None:
        self._work = Work.unpacked(packed, "cuda" if on_gpu else "cpu", threads)

    def ready(self) -> None:
        """Returns when the model is there."""

    def make(self, job: Job) -> None:
        self._work(job)


def run(work: Work, jobs: list[Job], workers: int | None, threads: int | None, done: Callable[[], object]) -> None:
    """Make shards.

    Args:
        work: What is done with each file.
        jobs: The shards that are not there yet.
        workers: Actors at most; by default as many as the cluster has GPUs, or groups of cores.
        threads: Cores of an actor where there is no GPU.
        done: A function that is called after each shard.

    Raises:
        OSError, TypeError, ValueError: As for `encode_shards`.
    """
    if not jobs:
        return
    packed = work.packed()
    started = not ray.is_initialized()
    if started:
        _connect(2 * len(packed))
    pool = _Pool(packed, workers, threads)
    try:
        _hand_out(pool, deque(jobs), done)
    finally:
        pool.end()
        if started:
            ray.shutdown()


def _connect(size: int) -> None:
    """To the cluster that ``RAY_ADDRESS`` names, or to one on this machine, with room for two models."""
    address = os.environ.get("RAY_ADDRESS", "local")
    _knock(address)
    # What an earlier cluster left in /tmp/ray would be taken for one that is there, if nothing were said.
    store = {"object_store_memory": max(size, 2**27)} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False, **store)
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise OSError(f"The Ray cluster {address!r} could not be reached: {cause}.") from error


def _knock(address: str) -> None:
    """Ray tries an address where nobody is for minutes, and then ends the process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise OSError(
                f"There is no Ray cluster at {address!r} ({error}): start one, or check RAY_ADDRESS."
            ) from error


class _Pool:
    """As many actors as the cluster has room for now; nodes may come and go."""

    def __init__(self, packed: bytes, workers: int | None, threads: int | None) -> None:
        self._packed, self._workers = ray.put(packed), workers
        gpus = sum(node["Resources"].get("GPU", 0) for node in _nodes())
        self._on_gpu = gpus >= 1 and chosen_device() in (None, "cuda")
        most = max((int(node["Resources"].get("CPU", 0)) for node in _nodes()), default=1)
        self._threads = threads or max(1, min(_THREADS, most))
        if not self._on_gpu and self._threads > most:
            raise ValueError(
                f"No node of the cluster has {self._threads} cores: give fewer threads, {most} at most, or start such "
                "nodes."
            )
        self.actors: dict[Any, Any] = {}  # by what they do now, which is to come up or to make a shard

    def fill(self, wanted: int) -> None:
        """Have so many actors, as far as there is room."""
        need, size = ("GPU", 1) if self._on_gpu else ("CPU", self._threads)
        room = sum(int(node["Resources"].get(need, 0) // size) for node in _nodes())
        for _ in range(min(room, wanted, self._workers or room) - len(self.actors)):
            options = {"num_gpus": 1, "num_cpus": 1} if self._on_gpu else {"num_cpus": self._threads}
            actor = ray.remote(Encoder).options(**options).remote(self._packed, self._threads, self._on_gpu)
            self.actors[actor.ready.remote()] = actor

    def end(self) -> None:
        for actor in self.actors.values():
            ray.kill(actor)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _hand_out(pool: _Pool, left: deque[Job], done: Callable[[], object]) -> None:
    working: dict[Any, Job] = {}
    lost: Counter[Job] = Counter()
    fallen = 0  # actors in a row that never came up
    while left or working:
        pool.fill(len(left) + len(working))
        if not pool.actors:  # all nodes are gone, and others may come
            time.sleep(_LOOK)
            continue
        finished, _ = ray.wait(list(pool.actors), timeout=_LOOK)
        for one in finished:
            actor, job = pool.actors.pop(one), working.pop(one, None)
            try:
                ray.get(one)
                fallen = 0
                if job is not None:
                    done()
            except ray.exceptions.RayActorError as error:
                if job is None:
                    fallen += 1
                else:
                    lost[job] += 1
                    left.appendleft(job)
                    if lost[job] == _TRIES:
                        raise OSError(
                            f"{job.source!r} ended {_TRIES} workers, most likely for want of memory: split it, or "
                            "give fewer workers."
                        ) from error
                if fallen == _FALLS:
                    raise OSError(
                        f"{_FALLS} workers ended before they began: see that every node has this package and its "
                        f"requirements ({' '.join(str(error).split())[:200]})."
                    ) from error
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            if left:
                job = left.popleft()
                made = actor.make.remote(job)
                pool.actors[made], working[made] = actor, job
            else:
                ray.kill(actor)
