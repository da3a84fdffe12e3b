"""Shards: made anywhere, whole or not at all, and an index of them that equals one built in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import MilvusSearch, SearchIndex, embedded_model_path, encode_shards, export
from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.scale import shards as making
from sentence_transformers_mirror.scale import work
from sentence_transformers_mirror.search import entries, positions, segments, shards, words

WORDS = "file window street boat garden house number door north list".split()


def text(part: int, row: int) -> str:
    return " ".join(WORDS[(part + row * step) % len(WORDS)] for step in range(1, 3 + row % 5)) + f" {part} {row}"


@pytest.fixture
def corpus(tmp_path):
    """Four files of texts with ids and years."""
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(4):
        rows = [f"{100 * part + row},{text(part, row)},{2020 + row % 3}" for row in range(12 + part)]
        (folder / f"part-{part}.csv").write_text("\n".join(["n,text,year", *rows]))
    return folder


@pytest.fixture
def whole(corpus):
    """All of its texts, ids and metadata."""
    rows = [
        (100 * part + row, text(part, row), {"year": 2020 + row % 3}) for part in range(4) for row in range(12 + part)
    ]
    ids, texts, metadata = map(list, zip(*rows, strict=True))
    return texts, ids, metadata


OPTIONS = {"ids": "n", "metadata": ["year"]}


def test_shards_hold_what_the_model_gives(tiny_model, corpus, whole, tmp_path):
    made = encode_shards(tiny_model, f"{corpus}/*.csv", tmp_path / "out", **OPTIONS)
    assert made == [str(tmp_path / "out" / f"part-{part}.parquet") for part in range(4)]
    assert sorted(os.listdir(tmp_path / "out")) == [f"part-{part}.parquet" for part in range(4)]
    tables = [pq.read_table(file) for file in made]
    assert all(table.schema.names == ["id", "text", "metadata", "embedding"] for table in tables)
    assert all(table.schema.field("embedding").type == pa.list_(pa.float32(), 32) for table in tables)
    table = pa.concat_tables(tables)
    assert [json.loads(item) for item in table.column("id").to_pylist()] == whole[1]
    assert table.column("text").to_pylist() == whole[0]
    assert [json.loads(item) for item in table.column("metadata").to_pylist()] == whole[2]
    vectors = np.array(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, tiny_model.encode(whole[0]), atol=1e-5)
    told = shards.read_shard(made[0]).made
    assert told["fingerprint"].startswith("v3-") and (told["rows"], told["metadata"]) == (12, ["year"])


def test_texts_without_ids_are_numbered_in_their_file(tiny_model, tmp_path):
    for name in ("a.b.txt", "c.txt.gz"):
        import gzip

        with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as file:
            file.write("one\n\ntwo\n")
    made = encode_shards(tiny_model, [tmp_path / "a.b.txt", tmp_path / "c.txt.gz"], tmp_path / "out")
    assert list(SearchIndex.from_shards(made)) == ["a.b:0", "a.b:1", "c:0", "c:1"]


def test_several_workers_make_the_same_shards(tiny_model, corpus, tmp_path):
    one = encode_shards(tiny_model, corpus, tmp_path / "one", **OPTIONS)
    two = encode_shards(tiny_model, corpus, tmp_path / "two", workers=2, threads=1, **OPTIONS)
    for mine, other in zip(map(pq.read_table, one), map(pq.read_table, two), strict=True):
        assert mine.drop(["embedding"]).equals(other.drop(["embedding"]))
        found = [np.array(table.column("embedding").to_pylist()) for table in (mine, other)]
        np.testing.assert_allclose(*found, atol=1e-5)


def test_a_shard_is_read_and_written_in_pieces(tiny_model, corpus, tmp_path, monkeypatch):
    whole = encode_shards(tiny_model, corpus, tmp_path / "whole", **OPTIONS)
    monkeypatch.setattr(work, "WINDOW", 5)
    pieces = encode_shards(tiny_model, corpus, tmp_path / "pieces", **OPTIONS)
    assert pq.read_metadata(pieces[0]).num_row_groups == 3
    for mine, other in zip(map(pq.read_table, whole), map(pq.read_table, pieces), strict=True):
        assert mine.column("id").to_pylist() == other.column("id").to_pylist()
    numbered = encode_shards(tiny_model, corpus, tmp_path / "numbered", column="text")
    assert list(SearchIndex.from_shards(numbered[:1])) == [f"part-0:{row}" for row in range(12)]


def test_shards_of_other_rows_have_other_marks(tiny_model, tmp_path):
    # The footer of Parquet knows sizes and extremes, which these share.
    rows = [[("a", 2022), ("b", 2023), ("c", 2024)], [("a", 2022), ("b", 2022), ("c", 2024)]]
    rows.append([("b", 2023), ("a", 2022), ("c", 2024)])
    marks = set()
    for number, one in enumerate(rows):
        file = tmp_path / f"{number}" / "part.csv"
        file.parent.mkdir()
        file.write_text("text,year\n" + "".join(f"{text},{year}\n" for text, year in one))
        (shard,) = encode_shards(tiny_model, [file], tmp_path / f"out-{number}", metadata=["year"])
        marks.add(shards.read_shard(shard).mark)
    assert len(marks) == 3


def test_names_of_no_pattern(tiny_model, tmp_path):
    (tmp_path / "p[1].txt").write_text("a text\n")
    (shard,) = encode_shards(tiny_model, tmp_path / "p[1].txt", tmp_path / "out")
    assert len(SearchIndex.from_shards(shard)) == 1
    (tmp_path / "_q.txt").write_text("a text\n")
    assert shards.listed(f"{tmp_path}/_*.txt") == [f"{tmp_path}/_q.txt"]
    with pytest.raises(ValueError, match="leave out: rename it"):
        encode_shards(tiny_model, [tmp_path / "_q.txt"], tmp_path / "out")


def test_what_is_there_is_left_alone(tiny_model, corpus, tmp_path):
    made = encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS)
    before = [os.stat(file).st_mtime_ns for file in made]
    Path(made[2]).unlink()
    (tmp_path / "out" / ".part-2.parquet.0badf00d.partial").write_bytes(b"half")
    (tmp_path / "out" / ".of-another-run.parquet.0badf00d.partial").write_bytes(b"half")
    assert encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS) == made
    after = [os.stat(file).st_mtime_ns for file in made]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True]
    assert [file for file in os.listdir(tmp_path / "out") if "partial" in file] == [
        ".of-another-run.parquet.0badf00d.partial"
    ]


DRIVER = """
import os, signal, sys
import pyarrow.parquet as pq
from sentence_transformers_mirror import encode_shards

write, left = pq.ParquetWriter.write_table, int(sys.argv[4])

def dies(self, table):
    global left
    write(self, table)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

pq.ParquetWriter.write_table = dies
encode_shards(sys.argv[1], sys.argv[2], sys.argv[3], ids="n", metadata=["year"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_goes_on_where_it_was(corpus, whole, tmp_path):
    """Killed while the third of four shards is being written."""
    (tmp_path / "driver.py").write_text(DRIVER)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "driver.py"), embedded_model_path(), str(corpus), str(out), "3"]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    half, first, second = sorted(out.iterdir())
    assert half.name.startswith(".part-2.parquet.") and half.name.endswith(".partial")
    before = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    model = SentenceTransformer(embedded_model_path())
    made = encode_shards(model, corpus, out, **OPTIONS)
    assert sorted(os.listdir(out)) == [f"part-{part}.parquet" for part in range(4)]
    assert (first.stat().st_mtime_ns, second.stat().st_mtime_ns) == before
    vectors = np.concatenate([np.array(pq.read_table(file).column("embedding").to_pylist()) for file in made])
    np.testing.assert_allclose(vectors, model.encode(whole[0]), atol=1e-5)
    assert list(SearchIndex.from_shards(made, model=model)) == whole[1]


PARENT = """
import multiprocessing, os, signal, sys, time
from sentence_transformers_mirror.scale.work import end_with_parent

def child():
    end_with_parent()
    print(os.getpid(), flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    # The pipe closes when the last of the two is gone.
    done = subprocess.run([sys.executable, str(tmp_path / "parent.py")], capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL and int(done.stdout) > 0


def test_a_worker_that_dies_is_told(tiny_model, corpus, tmp_path, monkeypatch):
    # Workers import the functions that they run: this module and a model would cost seconds, and play no part here.
    (tmp_path / "workers.py").write_text("import os\ndef begin(*_): pass\ndef make(job): os._exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import workers

    monkeypatch.setattr(work, "_begin", workers.begin)
    monkeypatch.setattr(work, "_make", workers.make)
    with pytest.raises(OSError, match="A worker died, most likely for want of memory: start again with fewer workers"):
        encode_shards(tiny_model, corpus, tmp_path / "out", workers=2, **OPTIONS)


def test_an_object_store_gets_a_shard_once(tiny_model, corpus, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    from pyarrow import fs

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    store = fs.PyFileSystem(fs.FSSpecHandler(memory))

    def place(file):
        file = str(file)
        return (store, file[len("s3:/") :]) if file.startswith("s3://") else (fs.LocalFileSystem(), file)

    for module in (shards, work, making):
        monkeypatch.setattr(module, "place", place)
    for file in sorted(corpus.iterdir()):
        with store.open_output_stream(f"/bucket/in/{file.name}") as stream:
            stream.write(file.read_bytes())
    made = encode_shards(tiny_model, "s3://bucket/in/*.csv", "s3://bucket/out", **OPTIONS)
    assert made == [f"s3://bucket/out/part-{part}.parquet" for part in range(4)]
    assert encode_shards(tiny_model, "s3://bucket/in", "s3://bucket/out/", **OPTIONS) == made
    here = encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS)
    remote, local = SearchIndex.from_shards("s3://bucket/out"), SearchIndex.from_shards(here)
    assert list(remote) == list(local)
    np.testing.assert_array_equal(remote._snapshot.vectors.parts[0], local._snapshot.vectors.parts[0])


# ---------------------------------------------------------------------------- an index


def told(hits):
    return [(hit.id, hit.text, hit.metadata) for hit in hits], [hit.score for hit in hits]


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_index_of_shards_equals_one_built_in_memory(tiny_model, corpus, whole, tmp_path, on_disk):
    texts, ids, metadata = whole
    made = encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS)
    path = tmp_path / "index" if on_disk else None
    mine = SearchIndex.from_shards(made, path=path, model=tiny_model, language="english")
    other = SearchIndex.build(tiny_model, texts, ids=ids, metadata=metadata, language="english")
    assert list(mine) == list(other) == ids and mine.facts()["model"] == other.facts()["model"]
    assert mine.facts()["fingerprint"] == other.facts()["fingerprint"]
    for mode in ("meaning", "words", "both"):
        for where in (None, {"year": 2021}, {"year": [2020, 2022]}):
            for query in texts[::7]:
                (found, scores), (expected, known) = (
                    told(index.search(query, top_k=8, mode=mode, where=where)) for index in (mine, other)
                )
                assert found == expected and found
                np.testing.assert_allclose(scores, known, atol=1e-5)
    assert mine.add(["another text"], ids=["new"]) == ["new"] and mine.add(["one more"]) == [315]
    if on_disk:
        mine.save(path)
        assert SearchIndex.verify(path)["texts"] == len(ids) + 2
        assert SearchIndex.open(path, model=tiny_model)[0][0] == texts[0]


def test_an_index_of_shards_keeps_the_dimensions(tiny_model, corpus, tmp_path):
    made = encode_shards(tiny_model, corpus, tmp_path / "out", dimensions=8, **OPTIONS)
    index = SearchIndex.from_shards(made, model=tiny_model)
    assert index.facts()["dimension"] == index.facts()["dimensions"] == 8
    assert index.search(text(1, 1))[0].id == 101


def write(file, ids, vectors, **changes):
    """A shard by hand."""
    told = {"fingerprint": "v3-x", "model": "m", "dimensions": None, "rows": len(ids), "bytes": 0, **changes}
    columns = [[json.dumps(item) for item in ids], [f"text {item}" for item in ids], [None] * len(ids)]
    schema = shards.shard_schema(vectors.shape[1]).with_metadata({shards.KEY: json.dumps(told)})
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table([*columns, lists], schema=schema), file)
    return str(file)


def test_ids_of_any_kind_are_found(tmp_path):
    """Ints that Python hashes to the same, negative ones, large ones, and strings that look like ints."""
    ids = [-1, -2, 2**61 - 2, 2**61 - 1, 0, "0", "-1", 10**30, "ä", *range(5, 40)]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    index = SearchIndex.from_shards([write(tmp_path / "a.parquet", ids, vectors)], path=tmp_path / "index")
    assert list(index) == ids and index._snapshot.next_id == 10**30 + 1
    assert all(item in index and index[item][0] == f"text {item}" for item in ids)
    assert 1 not in index and "5" not in index
    index.remove([-2, "0"])
    assert -1 in index and -2 not in index and 0 in index and "0" not in index


@pytest.mark.parametrize("bits", [4, 60])
def test_positions_are_those_of_a_dictionary_however_many_hashes_meet(monkeypatch, bits):
    """With 60 bits for a row all hashes are among 16, and with 4 for the rows here they hardly meet."""
    rows = 15 if bits == 4 else 300
    monkeypatch.setattr(positions, "_ROW", np.uint64(bits))
    index = SearchIndex.from_vectors(np.random.default_rng(0).normal(size=(rows, 4)), [f"t{n}" for n in range(rows)])
    known = {n: n for n in range(rows)}
    random = np.random.default_rng(1)
    for _ in range(3):
        item = int(random.choice(list(known)))
        index.remove(item)
        del known[item]
    found = index._state.positions
    assert found.find([*known]).tolist() == [*known.values()]
    assert (found.find([n for n in range(-5, rows + 5) if n not in known]) == -1).all()


def test_memory_of_an_index_grows_by_few_bytes_a_row(tmp_path, monkeypatch):
    """What is not mapped, while rows stream through; seen by tracemalloc."""
    monkeypatch.setattr(words, "_PART", 2**18)  # of text whose words are counted at a time

    def measured(rows: int) -> tuple[int, int]:
        vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
        files = [write(tmp_path / f"{rows}-{n}.parquet", range(n, rows, 2), vectors[n::2]) for n in (0, 1)]
        del vectors
        tracemalloc.start()
        index = SearchIndex.from_shards(files, path=tmp_path / str(rows), kind="flat")
        streamed = tracemalloc.get_traced_memory()[1]
        assert 5 in index
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return streamed, kept

    few, many = (np.array(measured(rows)) for rows in (70_000, 210_000))
    streamed, kept = (many - few) / 140_000
    assert 0.5 < streamed <= 16, streamed  # a hash and a mark, or less than a window; with a set of the ids it was 130
    assert 8 < kept <= 10, kept  # a key of `positions` and a mark; with a dictionary it was 198


# ---------------------------------------------------------------------------- bad input


@pytest.fixture
def two(tiny_model, corpus, tmp_path):
    return encode_shards(tiny_model, sorted(corpus.iterdir())[:2], tmp_path / "out", **OPTIONS)


def refused(call, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_shard_that_is_cut_off_is_refused(tiny_model, corpus, two, tmp_path):
    content = Path(two[1]).read_bytes()
    for kept in (0, 3, len(content) // 2, len(content) - 1):
        Path(two[1]).write_bytes(content[:kept])
        refused(lambda: SearchIndex.from_shards(two, path=tmp_path / "index"), "part-1.parquet' is cut off, damaged")
        refused(lambda: encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS), "part-1.parquet' is cut off")
        assert not (tmp_path / "index").exists() and len(Path(two[1]).read_bytes()) == kept


def test_a_shard_that_is_damaged_inside_is_refused(two, tmp_path):
    content = bytearray(Path(two[1]).read_bytes())
    content[4:400] = b"\xff" * 396
    Path(two[1]).write_bytes(content)
    refused(
        lambda: SearchIndex.from_shards(two, path=tmp_path / "index"),
        "part-1.parquet' (is cut|cannot be read)",
        (ValueError, OSError),
    )
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_shards_of_two_models_are_refused(make_model, corpus, two, tmp_path):
    other = encode_shards(make_model("roberta"), [corpus / "part-2.csv"], tmp_path / "other", **OPTIONS)
    refused(lambda: SearchIndex.from_shards([*two, *other]), "part-0.* and .*part-2.* are of two models or settings")
    refused(lambda: SearchIndex.from_shards(two, model=make_model("roberta")), "made by another model")


def test_other_columns_are_refused(two, tmp_path):
    pq.write_table(pa.table({"id": [1], "text": ["a"]}), tmp_path / "other.parquet")
    refused(
        lambda: SearchIndex.from_shards([*two, tmp_path / "other.parquet"]),
        "no shard of vectors.*'id', 'text'; encode",
    )
    table = pq.read_table(two[0])
    lists = table.set_column(3, "embedding", pa.array([[1.0]] * len(table)))
    pq.write_table(lists.replace_schema_metadata(pq.read_metadata(two[0]).metadata), tmp_path / "lists.parquet")
    refused(lambda: SearchIndex.from_shards([tmp_path / "lists.parquet"]), "columns or a footer of another kind")
    (tmp_path / "text.parquet").write_text("no Parquet")
    refused(lambda: SearchIndex.from_shards(tmp_path / "text.parquet"), "no Parquet")
    refused(lambda: SearchIndex.from_shards(tmp_path / "absent.parquet"), "There is no shard", FileNotFoundError)
    refused(lambda: SearchIndex.from_shards(f"{tmp_path}/none*.parquet"), "no file in or like", FileNotFoundError)


def test_an_id_in_two_shards_is_refused(tmp_path):
    vectors = np.ones((3, 2), np.float32)
    files = [
        write(tmp_path / f"{name}.parquet", ids, vectors)
        for name, ids in (("a", [1, -1, "x"]), ("b", [-2, "1", 3]), ("c", [5, "x", 6]), ("d", [7, 8, 8]))
    ]
    assert len(SearchIndex.from_shards(files[:2])) == 6  # -1 and -2 have one hash in Python
    refused(
        lambda: SearchIndex.from_shards(files[:3], path=tmp_path / "index"),
        r"The id 'x' is in .*a.parquet' and .*c.parquet': make the ids different",
    )
    refused(lambda: SearchIndex.from_shards(files[3:]), r"The id 8 is twice in .*d.parquet'")
    refused(lambda: SearchIndex.from_shards([files[0], files[0]]), "is named twice")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("column", "cells", "match"),
    [
        ("id", ["1", "nonsense", "3"], "ids or metadata that are no valid JSON"),
        ("id", ["1", "[2]", "3"], "ids or metadata that are no valid JSON"),
        ("id", ["1", None, "3"], "rows without id"),
        ("text", ["a", None, "c"], "rows without text"),
        ("metadata", [None, "[]", None], "ids or metadata that are no valid JSON"),
        ("embedding", [[1, 1], [0, 0], [1, 1]], "zero or non-finite vector.*'text 2'"),
        ("embedding", [[1, 1], None, [1, 1]], "rows without embedding"),
    ],
)
def test_what_is_in_a_shard_is_checked(tmp_path, column, cells, match):
    file = write(tmp_path / "a.parquet", [1, 2, 3], np.ones((3, 2), np.float32))
    table = pq.read_table(file)
    number = table.schema.get_field_index(column)
    changed = table.set_column(number, table.schema.field(column), pa.array(cells, table.schema.field(column).type))
    pq.write_table(changed, file)
    refused(lambda: SearchIndex.from_shards([file], path=tmp_path / "index"), match)
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_a_folder_of_another_run_is_refused(make_model, tiny_model, corpus, two, tmp_path):
    out, before = tmp_path / "out", [Path(file).read_bytes() for file in two]

    def again(match, model=tiny_model, **options):
        refused(lambda: encode_shards(model, corpus, out, **{**OPTIONS, **options}), match)

    again("made by another model", make_model("roberta"))
    again("made with another choice of dimensions", dimensions=8)
    again("made with another choice of metadata", metadata=[])
    again("made with another choice of ids", ids=None)
    content = (corpus / "part-1.csv").read_text()
    (corpus / "part-1.csv").write_text(content + "\n900,one more,2020")
    again("made before '.*part-1.csv' was changed")
    (corpus / "part-1.csv").write_text(content)
    assert [Path(file).read_bytes() for file in two] == before
    assert sorted(os.listdir(out)) == ["part-0.parquet", "part-1.parquet"]
    assert len(encode_shards(tiny_model, corpus, out, **OPTIONS)) == 4


def test_arguments_are_refused(tiny_model, corpus, tmp_path):
    def call(match, kind=ValueError, files=corpus, out=tmp_path / "out", **options):
        refused(lambda: encode_shards(tiny_model, files, out, **options), match, kind)

    call("engine is 'local' or 'ray', not 'spark'", engine="spark")
    call("workers must be at least 1", workers=0)
    call("threads must be a whole number", TypeError, threads=1.5)
    call("no file in or like", FileNotFoundError, files=f"{corpus}/*.txt")
    call("leads nowhere", OSError, files="nowhere://bucket/*.txt")
    (corpus / "part-1.txt").write_text("a text")
    call("would both become '.*part-1.parquet': rename one")
    (corpus / "part-1.txt").unlink()
    call("no column 'body'", files=[corpus / "part-1.csv"], column="body")
    call("is a file: name a folder", OSError, out=corpus / "part-1.csv")
    (tmp_path / "blank").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "blank" / "a.parquet")
    call("replaced by its own shard", files=tmp_path / "blank", out=tmp_path / "blank")
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


@pytest.mark.parametrize("call", [export, MilvusSearch])
def test_without_pymilvus_it_is_said_what_to_install(tiny_model, corpus, tmp_path, monkeypatch, call):
    made = encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    uri = "milvus://localhost:19530/texts"
    with pytest.raises(ImportError, match=r"pip install 'sentence-transformers-mirror\[milvus\]'"):
        call(made, uri) if call is export else call(uri, tiny_model)


def test_a_draft_is_no_shard_and_may_be_swept_by_another_run(tiny_model, corpus, tmp_path, monkeypatch):
    out, replace = tmp_path / "out", os.replace

    def swept(draft, target):
        assert Path(draft).parent == out and shards.listed(out) == [str(out / "part-0.parquet")]
        Path(draft).unlink()
        replace(draft, target)

    encode_shards(tiny_model, corpus / "part-0.csv", out, **OPTIONS)
    monkeypatch.setattr("os.replace", swept)
    refused(
        lambda: encode_shards(tiny_model, corpus, out, **OPTIONS),
        "another run that makes the same shard swept it away: start it again",
        OSError,
    )
    monkeypatch.undo()
    assert len(encode_shards(tiny_model, corpus, out, **OPTIONS)) == 4
    with pytest.raises(OSError, match="could not be written, other shards are whole: No such file"):
        with work._written(str(tmp_path / "absent" / "a.parquet")):
            pass


@pytest.mark.parametrize("number", [1, 2])
def test_rows_that_a_footer_does_not_know_are_found(two, monkeypatch, number):
    """Also in the last shard, before anything else is read."""
    read = shards.read_shard
    monkeypatch.setattr(shards, "read_shard", lambda file: replace(one := read(file), rows=one.rows - 1))
    refused(lambda: shards.read_shards(two[:number]), "was changed while it was read")


@pytest.mark.parametrize(("name", "value"), [("fingerprint", 3), ("model", ["a"]), ("dimensions", "8")])
def test_a_footer_of_another_kind_is_refused(tiny_model, corpus, tmp_path, name, value):
    (file,) = encode_shards(tiny_model, corpus / "part-0.csv", tmp_path / "out", **OPTIONS)
    table = pq.read_table(file)
    told = {**json.loads(pq.read_metadata(file).metadata[shards.KEY]), name: value}
    pq.write_table(table.replace_schema_metadata({shards.KEY: json.dumps(told)}), file)
    refused(lambda: SearchIndex.from_shards(file), "has columns or a footer of another kind than a shard: delete it")


@pytest.mark.parametrize(
    ("read", "cells"),
    [
        (segments.parsed_ids, ['"a', 'b",1']),
        (segments.parsed_ids, ["1,2", ""]),
        (segments.parsed_metadata, ['{"a":[{}', '{}],"b":{}}', "{},{}"]),
        (segments.parsed_metadata, ['{"a":[{}', '{}],"b":{}},0,{}']),
        (segments.parsed_metadata, ["", "{}"]),
    ],
)
def test_no_cell_goes_on_in_the_next(read, cells):
    with pytest.raises(BrokenIndexError, match="Ids or metadata of the index are not valid"):
        read(pa.array(cells))


def test_cells_are_read():
    assert segments.parsed_ids(pa.array(['"a,b"', "1", '"\\n"', "-3"])) == ["a,b", 1, "\n", -3]
    assert segments.parsed_metadata(pa.array(['{"a": [1, {}]}', None, "{}"])) == [{"a": [1, {}]}, {}, {}]


def test_without_ray_it_is_said_what_to_install(tiny_model, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sentence_transformers_mirror.scale.ray", raising=False)
    match = r"needs Ray: pip install 'sentence-transformers-mirror\[ray\]'"
    refused(lambda: encode_shards(tiny_model, corpus, tmp_path / "out", engine="ray"), match, ImportError)
    assert not (tmp_path / "out").exists()


def test_a_text_without_a_vector_names_its_file(tiny_model, corpus, tmp_path):
    import torch

    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.fill_(float("nan"))
    refused(lambda: encode_shards(tiny_model, corpus, tmp_path / "out", **OPTIONS), "part-0.csv': 12 of 12 texts have")
    assert not os.listdir(tmp_path / "out")


def test_pieces_of_ids_are_all_of_them(monkeypatch):
    window = entries.Window([f"t{n}" for n in range(10)], None, [None] * 10)
    segment = segments.Segment(np.eye(10, dtype=np.float32), window.table([*range(10)]))
    monkeypatch.setattr(segments, "_PIECE", 3)
    assert list(segment.ids()) == [*range(10)] and segments.next_id([segment, segment]) == 10


# ---------------------------------------------------------------------------- the command line


def test_encode_and_index_from_a_shell(tiny_model, corpus, tmp_path, capfd):
    from sentence_transformers_mirror.cli import main

    tiny_model.save_pretrained(str(tmp_path / "model"))
    model, out, index = (str(tmp_path / name) for name in ("model", "out", "index"))
    columns = ["--ids", "n", "--metadata", "year"]
    assert main(["encode", "--model", model, "--texts", f"{corpus}/*.csv", "--output", out, *columns]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["shards"], facts["texts"], facts["output"]) == (4, 54, out)
    assert main(["index", "--shards", f"{out}/*.parquet", "--output", index, "--language", "english"]) == 0
    assert json.loads(capfd.readouterr().out)["texts"] == 54
    assert main(["search", index, text(1, 1), "--model", model, "--top-k", "1"]) == 0
    assert json.loads(capfd.readouterr().out)["id"] == 101

    def fails(*arguments):
        assert main([*arguments]) == 2
        return capfd.readouterr().err

    assert "Say what is indexed" in fails("index", "--output", index, "--force")
    assert "pass --model" in fails("index", "--output", index, "--texts", "x.txt", "--force")
    said = fails("index", "--output", index, "--shards", out, "--passages", "20", "--force")
    assert "--passages is a choice of `st-mirror encode`" in said.replace("\n", " ") or "leave it out" in said
    assert "--engine" in fails("encode", "--model", model, "--texts", "x", "--output", out, "--engine", "spark")
    assert "--workers must be" in fails("encode", "--model", model, "--texts", "x", "--output", out, "--workers", "0")
