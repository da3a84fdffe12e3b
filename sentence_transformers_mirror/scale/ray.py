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
from contextlib import ExitStack
from typing import Any

from sentence_transformers_mirror.models import chosen_device
from sentence_transformers_mirror.scale.work import Job, Work, Worker

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    import ray
except ImportError as error:
    raise ImportError("engine='ray' needs Ray: pip install 'sentence-transformers-mirror[ray]'.") from error

_THREADS = 4  # cores of an actor
_TRIES = 3  # actors that a file may cost
_FALLS = 8  # actors that may end before they begin, one after the other
_LOOK = 5.0  # seconds between two looks at what the cluster has


def run(work: Work, jobs: list[Job], workers: int | None, threads: int | None, done: Callable[[], object]) -> None:
    """Make the shards of jobs by so many actors at most, of so many cores; ``done`` is called after each shard."""
    if not jobs:
        return
    packed = work.packed()
    with ExitStack() as stack:
        if not ray.is_initialized():
            _connect(2 * len(packed))
            stack.callback(ray.shutdown)
        pool = _Pool(packed, workers, threads)
        stack.callback(pool.end)
        _hand_out(pool, deque(jobs), done)


def _connect(size: int) -> None:
    """To the cluster that ``RAY_ADDRESS`` names, or to one on this machine, with room for two models."""
    address = os.environ.get("RAY_ADDRESS", "local")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():  # Ray tries an address where nobody is for minutes, and then ends the process
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise OSError(
                f"There is no Ray cluster at {address!r} ({error}): start one, or check RAY_ADDRESS."
            ) from error
    # What an earlier cluster left in /tmp/ray would be taken for one that is there, if nothing were said.
    store = {"object_store_memory": max(size, 2**27)} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False, **store)
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise OSError(f"The Ray cluster {address!r} could not be reached: {cause}.") from error


class _Pool:
    """As many workers, on a GPU or some cores each, as the cluster has room for now; nodes may come and go."""

    def __init__(self, packed: bytes, workers: int | None, threads: int | None) -> None:
        self.doing: dict[Any, tuple[Any, Job | None]] = {}  # actors, and the shards that they make if they are up
        self._workers = workers
        on_gpu = sum(_nodes("GPU")) >= 1 and chosen_device() in (None, "cuda")
        most = max(_nodes("CPU"), default=1)
        threads = threads or max(1, min(_THREADS, most))
        if not on_gpu and threads > most:
            raise ValueError(
                f"No node of the cluster has {threads} cores: give fewer threads, {most} at most, or start such nodes."
            )
        self._need, self._size = ("GPU", 1) if on_gpu else ("CPU", threads)
        self._options = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": threads}
        self._arguments = ray.put(packed), "cuda" if on_gpu else "cpu", threads

    def fill(self, wanted: int) -> None:
        """Have so many actors, as far as there is room."""
        room = sum(there // self._size for there in _nodes(self._need))
        for _ in range(min(room, wanted, self._workers or room) - len(self.doing)):
            actor = ray.remote(Worker).options(**self._options).remote(*self._arguments)
            self.doing[actor.__ray_ready__.remote()] = actor, None

    def end(self) -> None:
        for actor, _ in self.doing.values():
            ray.kill(actor)


def _nodes(what: str) -> list[int]:
    return [int(node["Resources"].get(what, 0)) for node in ray.nodes() if node["Alive"]]


def _hand_out(pool: _Pool, left: deque[Job], done: Callable[[], object]) -> None:
    lost: Counter[Job | None] = Counter()  # actors, by what they worked on; None are those in a row that never came up
    while unmade := len(left) + sum(job is not None for _, job in pool.doing.values()):
        pool.fill(unmade)
        if not pool.doing:  # all nodes are gone, and others may come
            time.sleep(_LOOK)
            continue
        finished, _ = ray.wait(list(pool.doing), timeout=_LOOK)
        for one in finished:
            actor, job = pool.doing.pop(one)
            try:
                ray.get(one)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayActorError as error:
                lost[job] += 1
                if job is None and lost[job] == _FALLS:
                    raise OSError(
                        f"{_FALLS} workers ended before they began: see that every node has this package and its "
                        f"requirements ({' '.join(str(error).split())[:200]})."
                    ) from error
                if job is not None and lost[job] == _TRIES:
                    raise OSError(
                        f"{job.source!r} ended {_TRIES} workers, most likely for want of memory: split it, or give "
                        "fewer workers."
                    ) from error
                left.extendleft([] if job is None else [job])
                continue
            lost[None] = 0
            if job is not None:
                done()
            if left:
                job = left.popleft()
                pool.doing[actor.make.remote(job)] = actor, job
            else:
                ray.kill(actor)
