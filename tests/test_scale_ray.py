"""Shards from a Ray cluster that loses nodes and drivers; skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

import sentence_transformers_mirror
from sentence_transformers_mirror import SearchIndex, embedded_model_path, encode_shards
from sentence_transformers_mirror.scale.work import Job
from sentence_transformers_mirror.texts.docstrings import read_docstrings

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")
if sys.platform == "win32":
    pytest.skip("needs SIGKILL", allow_module_level=True)

from sentence_transformers_mirror.scale import ray as engine  # noqa: E402

ROOT = str(Path(sentence_transformers_mirror.__file__).parents[1])
LEFT = Path("/tmp/ray/ray_current_cluster")  # behind by a Cluster, and taken for one by whoever asks for none
STORE = 80 * 2**20  # the least that Ray takes
SHARDS, TEXTS = 20, 40


@pytest.fixture(autouse=True)
def actors_find_the_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # of 15 by default: on a busy machine actors never come up
    was_there = LEFT.exists()
    yield
    ray.shutdown()
    if not was_there:
        LEFT.unlink(missing_ok=True)


# ---------------------------------------------------------------------------- what goes wrong in an actor


class Model:
    def to(self, device):
        assert device == "cpu"


class Fake:
    """Work that needs no model: a file is made, cannot be read, or ends the process that reads it."""

    model = Model()

    def packed(self) -> bytes:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        return ray.cloudpickle.dumps(self)

    def __call__(self, job: Job) -> None:
        tries = len(list(Path(job.target).parent.glob(f"{Path(job.target).name}.*")))
        Path(f"{job.target}.{tries}").write_text("")
        if job.source == "unreadable":
            raise ValueError("'unreadable' has no column 'text'.")
        if job.source == "deadly" or (job.source == "deadly once" and tries == 0):
            os._exit(1)


def test_errors_and_losses_of_actors(tmp_path, monkeypatch):
    """In a cluster of this machine alone, which the run starts and stops."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(engine, "_LOOK", 0.5)
    done = []

    def run(*sources, **options):
        jobs = [Job(source, str(tmp_path / f"{number}-{source}")) for number, source in enumerate(sources)]
        engine.run(Fake(), jobs, options.get("workers", 1), options.get("threads", 1), lambda: done.append(1))

    run()
    assert not ray.is_initialized()  # there is nothing to do
    run("good", "deadly once", "good", "good", workers=2)
    assert len(done) == 4 and not ray.is_initialized()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "0-good.0", "1-deadly once.0", "1-deadly once.1", "2-good.0", "3-good.0",
    ]  # fmt: skip
    ray.init(address="local", num_cpus=2, object_store_memory=STORE, include_dashboard=False)
    with pytest.raises(ValueError, match="^'unreadable' has no column 'text'.$"):
        run("good", "unreadable")
    with pytest.raises(OSError, match="'deadly' ended 3 workers, most likely for want of memory: split it") as caught:
        run("deadly")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No node of the cluster has 100 cores: give fewer threads, 2 at most"):
        run("good", threads=100)
    assert ray.is_initialized()  # what another started is left alone
    with monkeypatch.context() as patched:
        patched.setattr(ray, "is_initialized", lambda: False)
        patched.setattr(engine, "_connect", lambda size: None)
        with pytest.raises(ValueError, match="No node of the cluster has 100 cores"):
            run("good", threads=100)
    assert not ray.is_initialized()  # what the run started is stopped, whatever ends it


def test_no_cluster_at_the_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(OSError, match="There is no Ray cluster at '127.0.0.1:1' .*: start one, or check") as caught:
        engine._connect(0)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- a cluster of two nodes

DRIVER = """
import sys
from sentence_transformers_mirror import encode_shards
encode_shards(sys.argv[1], sys.argv[2], sys.argv[3], engine="ray")
"""


def made(out: Path) -> list[Path]:
    return sorted(out.glob("*.parquet"))


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_a_cluster_that_loses_a_node_and_three_drivers_makes_every_row_once(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    texts = list(
        dict.fromkeys(" ".join(one.text.split())[:300].strip() for one in read_docstrings(Path(np.__file__).parent))
    )
    texts = texts[: SHARDS * TEXTS]
    assert len(texts) == SHARDS * TEXTS
    for number in range(SHARDS):
        (source / f"{number:02d}.txt").write_text("\n".join(texts[number * TEXTS : (number + 1) * TEXTS]))

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        (tmp_path / "driver.py").write_text(DRIVER)
        command = [sys.executable, str(tmp_path / "driver.py"), embedded_model_path(), str(source), str(out)]
        # While actors come up, in the middle of a shard, and after some more.
        for moment in (
            out.exists,
            lambda: list(out.glob("*.partial")),
            lambda: len(made(out)) >= 5,
        ):
            driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda moment=moment, driver=driver: moment() or driver.poll() is not None)
            driver.send_signal(signal.SIGKILL)
            assert driver.wait() == -signal.SIGKILL
        before = {file: file.stat().st_mtime_ns for file in made(out)}
        assert 5 <= len(before) < SHARDS

        def lose_a_node() -> None:
            until(lambda: len(made(out)) >= len(before) + 2)
            cluster.remove_node(second, allow_graceful=False)
            lost.append(len(made(out)))

        lost: list[int] = []
        thread = threading.Thread(target=lose_a_node)
        thread.start()
        model = SentenceTransformer(embedded_model_path())
        shards = encode_shards(model, source, out, engine="ray")
        thread.join()
    finally:
        ray.shutdown()
        cluster.shutdown()

    assert lost[0] < SHARDS
    assert sorted(os.listdir(out)) == [f"{number:02d}.parquet" for number in range(SHARDS)]  # nothing temporary
    assert {file: file.stat().st_mtime_ns for file in before} == before
    tables = [pq.read_table(shard) for shard in shards]
    assert [text for table in tables for text in table.column("text").to_pylist()] == texts
    vectors = np.concatenate([np.array(table.column("embedding").to_pylist(), np.float32) for table in tables])
    np.testing.assert_allclose(vectors, model.encode(texts), atol=1e-5)
    index = SearchIndex.from_shards(shards, model=model)
    assert list(index) == [f"{number // TEXTS:02d}:{number % TEXTS}" for number in range(SHARDS * TEXTS)]
