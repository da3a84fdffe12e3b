"""Shards in a real Milvus Lite server; skipped where pymilvus or milvus-lite is not installed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

from sentence_transformers_mirror import MilvusSearch, SearchIndex, encode_shards, export
from sentence_transformers_mirror.scale import milvus
from sentence_transformers_mirror.search import shards

pymilvus = pytest.importorskip("pymilvus", reason="needs pymilvus: pip install '.[milvus]'")
pytest.importorskip("milvus_lite", reason="needs milvus-lite: pip install '.[milvus]'")
if sys.platform == "win32":
    pytest.skip("needs SIGKILL", allow_module_level=True)

ROWS, SHARDS = 20_000, 5  # of those that are checked against a scan


class Server:
    """Milvus Lite on a port of this machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self) -> Server:
        program = str(Path(sys.executable).with_name("milvus-lite"))
        arguments = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder)]
        self.process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self.process.poll() is None, "the server ended"
            time.sleep(0.1)
        raise AssertionError("the server did not come up")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def uri(self, name: str) -> str:
        return f"milvus://127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("milvus") / "data").start()
    yield started
    started.kill()


TEXTS = [
    f"Open the {thing} number {number}." for number in range(10) for thing in ("house", "garden", "file", "window")
]
METADATA = [
    {"year": 2020 + number % 3, "tags": ["even" if number % 2 == 0 else "odd", "all"], 'a "key"': f'it"s \\ {number}'}
    for number in range(len(TEXTS))
]


@pytest.fixture
def made(tiny_model, tmp_path):
    """Shards with ids that an expression could stumble over, and an index of them."""
    ids = [f'quote " and \\ and {number}' if number % 2 else number for number in range(len(TEXTS))]
    for part in range(2):
        rows = [
            {"id": ids[n], "text": TEXTS[n], **METADATA[n]} for n in range(20 * part, 20 * part + 20)
        ]  # fmt: skip
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    out = encode_shards(tiny_model, files, tmp_path / "out", ids="id", metadata=[*METADATA[0]])
    return out, SearchIndex.from_shards(out, model=tiny_model)


def told(hits):
    return {(hit.id, hit.text, json.dumps(hit.metadata, sort_keys=True)) for hit in hits}


def test_hits_are_those_of_an_index(server, tiny_model, made):
    out, index = made
    uri = server.uri("hits")
    assert export(out, uri) == len(TEXTS)
    assert export(out, uri) == len(TEXTS)  # sent twice, there once
    with MilvusSearch(uri, tiny_model) as remote:
        assert len(remote) == len(index) == len(TEXTS)
        for where in (
            None,
            {"year": 2021},
            {"year": [2020, 2022], "tags": "odd"},
            {"tags": ["even", "none"]},
            {'a "key"': 'it"s \\ 7'},
            {"year": []},
        ):
            for query in TEXTS[::9]:
                mine, theirs = index.search(query, 40, where=where), remote.search(query, 40, where)
                assert told(mine) == told(theirs)
                np.testing.assert_allclose([hit.score for hit in mine], [hit.score for hit in theirs], atol=1e-5)
                assert all(hit.meaning == hit.score and hit.words is hit.passage is None for hit in theirs)
        best = remote.search(TEXTS[:3], 1)
        assert [[hit.text for hit in line] for line in best] == [[text] for text in TEXTS[:3]]
        assert remote.search([]) == []


def test_keys_are_made_of_ids(made, monkeypatch):
    rows = [row for part in milvus._rows(shards.read_shard(made[0][0])) for row in part]
    assert rows[1]["id"] == json.dumps('quote " and \\ and 1')
    assert rows[1]["key"] == str(uuid.uuid5(milvus._KEYS, rows[1]["id"])) and rows[1]["metadata"] == METADATA[1]
    assert len({row["key"] for row in rows}) == 20
    monkeypatch.setattr(milvus, "_BYTES", 1_000)
    parts = list(milvus._rows(shards.read_shard(made[0][0])))
    assert len(parts) > 3 and [row["id"] for part in parts for row in part] == [row["id"] for row in rows]


def test_milvus_lite_in_this_process(tiny_model, made, tmp_path, capfd):
    from sentence_transformers_mirror.cli import main

    uri = f"{tmp_path}/lite.db/texts"
    assert main(["export", "--shards", *made[0], "--output", uri]) == 0
    assert json.loads(capfd.readouterr().out) == {"texts": len(TEXTS), "output": uri}
    with MilvusSearch(uri, tiny_model) as remote:
        assert remote.search(TEXTS[5])[0].score == pytest.approx(1, abs=1e-5)


DRIVER = """
import sys
from sentence_transformers_mirror.scale.milvus import export
export(sys.argv[1], sys.argv[2])
"""


def test_a_server_killed_in_the_middle_of_an_export_loses_nothing(tmp_path, make_model):
    """20,000 rows against a scan of them, after the server was killed with half of them in it."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    out = tmp_path / "out"
    out.mkdir()
    model = make_model("bert")
    of_model = {"fingerprint": shards_fingerprint(model), "model": "tiny", "dimensions": None}
    for part in range(SHARDS):
        write(out / f"{part}.parquet", range(part * 4_000, part * 4_000 + 4_000), vectors, of_model)
    server = Server(tmp_path / "data").start()
    uri = server.uri("killed")
    try:
        # The client is another process: what it makes of a server that is gone is seen from outside, too.
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(out), uri], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(milvus.__file__).parents[2])},
        )  # fmt: skip
        watch = pymilvus.MilvusClient(uri=f"http://127.0.0.1:{server.port}", timeout=10)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            if watch.has_collection("killed") and milvus._count(watch, "killed", "") >= ROWS // 2:
                break
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.05)
        server.kill()
        watch.close()
        said = driver.communicate(timeout=200)[1]
        assert driver.returncode == 1 and "could not be reached or refused the work" in said.splitlines()[-1], said
        server.start()
        assert export(str(out), uri) == ROWS
        remote = MilvusSearch(uri, model)
        assert len(remote) == ROWS
        monkeypatched = vectors[:20] + 0.3 * rng.normal(size=(20, 32)).astype(np.float32)
        monkeypatched /= np.linalg.norm(monkeypatched, axis=1, keepdims=True)
        remote._encoder.queries = lambda texts: monkeypatched[[int(text) for text in texts]]
        for where, allowed in ((None, np.ones(ROWS, bool)), ({"third": 1}, np.arange(ROWS) % 3 == 1)):
            scores = np.where(allowed, monkeypatched @ vectors.T, -2)
            truth = np.argsort(-scores, axis=1)[:, :10]
            for query, line in enumerate(remote.search([str(n) for n in range(20)], 10, where)):
                assert [hit.id for hit in line] == truth[query].tolist()
                assert [hit.text for hit in line] == [f"text {n}" for n in truth[query]]
                assert [hit.metadata for hit in line] == [{"third": n % 3} for n in truth[query].tolist()]
        remote.close()
    finally:
        server.kill()


def shards_fingerprint(model):
    from sentence_transformers_mirror.search.identity import fingerprint

    return fingerprint(model)


def write(file, ids, vectors, of_model):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = list(ids)
    columns = [
        [json.dumps(n) for n in ids],
        [f"text {n}" for n in ids],
        [json.dumps({"third": n % 3}) for n in ids],
    ]
    schema = shards.shard_schema(vectors.shape[1]).with_metadata({shards.KEY: json.dumps(of_model)})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors[ids].reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table([*columns, lists], schema=schema), file)


# ---------------------------------------------------------------------------- bad input


def refused(call, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_bad_addresses_are_refused(tiny_model, made, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"milvus://127.0.0.1:{free.getsockname()[1]}/texts"
    refused(lambda: export(made[0], nobody), "The Milvus of 'milvus://127.* could not be reached", OSError)
    refused(lambda: MilvusSearch(nobody, tiny_model), "The Milvus of 'milvus://127.* could not be reached", OSError)
    for uri in ("milvus://localhost:19530", "http://localhost/texts", "texts", "a/b", "milvus://localhost/a-b"):
        refused(lambda uri=uri: export(made[0], uri), "is no address of a collection: write milvus://host:19530")
    refused(lambda: export(tmp_path / "none.parquet", nobody), "There is no shard", FileNotFoundError)


def test_other_collections_are_refused(server, make_model, tiny_model, made, tmp_path):
    out, _ = made
    uri = server.uri("other")
    refused(lambda: MilvusSearch(uri, tiny_model), "There is no collection 'other'")
    export(out, uri)
    refused(lambda: MilvusSearch(uri, make_model("roberta")), "was filled by another model")
    roberta = encode_shards(make_model("roberta"), [tmp_path / "0.jsonl"], tmp_path / "roberta", column="text")
    refused(lambda: export(roberta, uri), "'other' was filled by another model: name another collection")
    short = encode_shards(tiny_model, [tmp_path / "0.jsonl"], tmp_path / "short", column="text", dimensions=8)
    refused(lambda: export(short, uri), "'other' has vectors of 32 dimensions and the shards of 8")
    client = pymilvus.MilvusClient(uri=f"http://127.0.0.1:{server.port}")
    client.create_collection("strange", dimension=32)
    refused(lambda: export(out, server.uri("strange")), "'strange' was not made by `export`, it has other fields")
    refused(lambda: export([*out, *roberta], uri), "are of two models")
    with MilvusSearch(uri, tiny_model) as remote:
        assert len(remote) == len(TEXTS)
    client.close()


def test_what_milvus_cannot_take_is_refused(server, tiny_model, tmp_path):
    (tmp_path / "long.txt").write_text("short\n" + "long " * 14_000)
    out = encode_shards(tiny_model, [tmp_path / "long.txt"], tmp_path / "long")
    refused(lambda: export(out, server.uri("long")), "the text of the id 'long:1' has 69,999 bytes, and Milvus takes")


def test_bad_searches_are_refused(server, tiny_model, made):
    uri = server.uri("searches")
    export(made[0], uri)
    with MilvusSearch(uri, tiny_model) as remote:
        refused(lambda: remote.search("a", 20_000), "Milvus gives 16,384 hits at most")
        refused(lambda: remote.search("a", 0), "top_k must be at least 1")
        refused(lambda: remote.search(" "), "query is blank")
        refused(lambda: remote.search("a", where={"yaer": 2020}), "No text has a value under 'yaer'")
        refused(lambda: remote.search("a", where={"year": None}), "must be strings, numbers or bools", TypeError)
        refused(lambda: remote.search("a", where={"year": lambda year: True}), "must be strings, numbers", TypeError)
        refused(lambda: remote.search("a", where=["year"]), "where must be a dictionary", TypeError)
        assert remote.search("a", where={"year": 1999}) == []


def test_a_folder_that_another_program_has_open_is_told(tiny_model, made, server):
    folder = server.folder.with_name("held.db")
    with MilvusSearch_of(made[0], f"{folder}/texts", tiny_model):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, made[0][0], f"{folder}/texts"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(milvus.__file__).parents[2])},
        )  # fmt: skip
    assert re.search("OSError: The Milvus of .* no other program has its folder open", done.stderr), done.stderr


def MilvusSearch_of(out, uri, model):
    export(out, uri)
    return MilvusSearch(uri, model)


def test_the_index_suits_the_size():
    assert milvus.index_for(20_000) == ("FLAT", {})
    assert milvus.index_for(10**6)[0] == "HNSW"
    assert milvus.index_for(10**8) == ("IVF_SQ8", {"nlist": 40_000})
