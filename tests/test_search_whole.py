"""A change of an index happens wholly or not at all, in memory and on disk, and a search sees one index."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import signal
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from sentence_transformers_mirror.search import BrokenIndexError, ConflictError, SearchIndex, saving
from sentence_transformers_mirror.search.manifest import Manifest, checksum

VECTORS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def small(rows: int = 12) -> SearchIndex:
    metadata = [{"n": n} for n in range(rows)]
    return SearchIndex.from_vectors(VECTORS[:rows], [f"text {n}" for n in range(rows)], metadata=metadata)


def contents(index: SearchIndex) -> dict:
    """What is in it, asked in two ways that must agree."""
    found = {item: index[item] for item in index}
    assert (index._state.positions.find([*found]) >= 0).all() and len(index) == len(found)
    assert list(index._row_of) == list(found)
    hits = index.search(VECTORS[0], top_k=1000)
    assert {hit.id: (hit.text, hit.metadata) for hit in hits} == found
    return found


class BreaksIn:
    """Raises at the k-th call of a function of the package, as Ctrl-C or a failing call may at any."""

    def __init__(self, k: int) -> None:
        self.left = k

    def __call__(self, frame, event, argument) -> None:
        if event == "call" and "sentence_transformers_mirror" in frame.f_code.co_filename:
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def __enter__(self) -> BreaksIn:
        sys.setprofile(self)
        return self

    def __exit__(self, *_) -> None:
        sys.setprofile(None)


CHANGES = {
    "add": lambda index: index.add(["new", "newer"], ["a", 99], vectors=VECTORS[20:22]),
    "add without ids": lambda index: index.add(["new"], vectors=VECTORS[20:21]),
    "add over others": lambda index: index.add(["new", "x"], [3, "a"], vectors=VECTORS[20:22], overwrite=True),
    "remove": lambda index: index.remove([3, 4]),
    "remove many": lambda index: index.remove(list(range(8))),
    "update": lambda index: index.update(5, "other", {"n": "other"}, vectors=VECTORS[30:31]),
    "update several": lambda index: index.update([5, 6], ["x", "y"], [{}, None], vectors=VECTORS[30:32]),
    "calibrate": lambda index: index.calibrate(0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_broken_off_has_not_happened(change):
    before, changed = contents(small()), small()
    CHANGES[change](changed)
    after = contents(changed)
    for k in range(1, 2_000):
        index = small()
        try:
            with BreaksIn(k) as breaks:
                CHANGES[change](index)
        except KeyboardInterrupt:
            pass
        assert contents(index) in (before, after), k
        if breaks.left > 0:
            break
        if contents(index) == before:
            CHANGES[change](index)  # and it can be done again
            assert contents(index) == after
    assert k > 5 and contents(index) == after


def test_a_save_that_is_broken_off_left_the_old_index_or_the_new_one(tmp_path):
    index = small()
    index.save(tmp_path)
    for k in range(1, 2_000):
        before = contents(SearchIndex.load(tmp_path))
        index.update(0, f"text at {k}", vectors=VECTORS[:1])
        after = contents(index)
        try:
            with BreaksIn(k) as breaks:
                index.save(tmp_path)
        except KeyboardInterrupt:
            pass
        assert contents(SearchIndex.load(tmp_path)) in (before, after)
        SearchIndex.verify(tmp_path)
        if breaks.left > 0:
            break
        index.save(tmp_path)  # the same object knows its own save again
        assert contents(SearchIndex.load(tmp_path)) == after
    assert k > 20


@pytest.mark.parametrize("name", ["fsync", "replace", "open"])
def test_a_failing_system_call_is_told_as_it_is(tmp_path, monkeypatch, name):
    index = small()
    index.save(tmp_path)
    real = getattr(os, name)
    for k in range(1, 50):
        index.update(0, f"text at {k}", vectors=VECTORS[:1])
        calls = 0

        def failing(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == k:  # noqa: B023
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                index.save(tmp_path)
                message = None
            except OSError as error:
                message = str(error)
        saved = SearchIndex.load(tmp_path)[0][0] == f"text at {k}"
        if message is None:
            break
        assert ("unchanged" in message) != saved and "No space left" in message
        index.save(tmp_path)
        SearchIndex.verify(tmp_path)
    assert saved and k > 1


def test_an_index_that_is_built_on_disk_is_committed_once(tmp_path, monkeypatch):
    commits = []
    commit = saving.Save.commit
    monkeypatch.setattr(saving.Save, "commit", lambda self, manifest: commits.append(1) or commit(self, manifest))
    index = SearchIndex.from_vectors(VECTORS, [f"text {n}" for n in range(40)], path=tmp_path)
    assert len(commits) == 1
    index.add(["more"], vectors=VECTORS[:1])
    index.save(tmp_path)
    assert len(SearchIndex.load(tmp_path)) == 41


def test_files_that_were_damaged_are_written_again(tmp_path):
    for kind in ("vectors", "entries", "faiss"):
        folder = tmp_path / kind
        rows = 2_100 if kind == "faiss" else 40
        vectors = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
        options = {"kind": "hnsw" if kind == "faiss" else "flat"}
        SearchIndex.from_vectors(vectors, map(str, range(rows)), **options).save(folder)
        index, opened = SearchIndex.load(folder), SearchIndex.open(folder)
        (file,) = folder.glob(f"{kind}-*")
        file.rename(folder / "aside")
        file.write_bytes(b"cut")
        if kind != "faiss":  # of which it can make another
            with pytest.raises(BrokenIndexError, match="damaged or deleted"):
                opened.save(folder)
        index.save(folder)
        assert SearchIndex.verify(folder)["texts"] == rows


def test_copies_are_indexes_of_their_own_and_pickles_say_what_to_do(tmp_path):
    index = small()
    index.save(tmp_path)
    for copied in (copy.copy(index), copy.deepcopy(index)):
        copied.remove(0)
        assert len(copied) == 11 and len(index) == 12
        copied.save(tmp_path / "copy", overwrite=True)
    with pytest.raises(TypeError, match="save it into a folder"):
        pickle.dumps(index)
    assert contents(SearchIndex.load(tmp_path)) == contents(index)


def test_another_index_is_not_overwritten(tmp_path):
    small().save(tmp_path)
    with pytest.raises(ConflictError, match="overwrite=True"):
        small(5).save(tmp_path)
    assert len(SearchIndex.load(tmp_path)) == 12
    small(5).save(tmp_path, overwrite=True)
    assert len(SearchIndex.load(tmp_path)) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_search():
    vectors = np.random.default_rng(0).normal(size=(60_000, 64)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors, map(str, range(60_000)), kind="flat")
    index.search(vectors[:64])
    holds, done = threading.Event(), threading.Event()

    def write():
        with index._writing:
            holds.set()
            done.wait()

    writer = threading.Thread(target=write)
    writer.start()
    holds.wait()
    child = os.fork()
    if child == 0:
        index.remove(1)  # the thread that holds the lock is not there in this process
        os._exit(index.search(vectors[0], top_k=1)[0].id)
    done.set()
    writer.join()
    end = time.time() + 60
    while time.time() < end and (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        time.sleep(0.05)
    if found == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert found == (child, 0)


def test_searches_see_one_index_while_it_is_rebuilt_by_models_of_other_widths(tiny_model, make_model, texts):
    from sentence_transformers.sentence_transformer.modules import Dense

    narrow = make_model("bert")
    narrow.append(Dense(32, 16))
    index = SearchIndex.build(tiny_model, texts)
    stop, errors, searches = threading.Event(), [], [0]

    def run(work):
        def loop():
            number = 0
            while not stop.is_set() and not errors:
                number += 1
                try:
                    work(number)
                except BaseException as error:
                    errors.append(error)

        return threading.Thread(target=loop)

    def ask(number):
        text = texts[number % len(texts)]
        (hit,) = index.search(text, top_k=1)
        searches[0] += 1
        assert hit.text == text and hit.score > 0.999

    def grow(number):
        index.add([f"another text, number {number} of {threading.get_ident()}"])
        time.sleep(0.01)

    threads = [run(ask) for _ in range(8)] + [run(grow) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.time() + float(os.environ.get("ST_MIRROR_RACE_SECONDS", "8"))
    while time.time() < end and not errors:
        index.rebuild(narrow)
        index.rebuild(tiny_model)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and searches[0] > 10
    assert all(hit[0].score > 0.999 for hit in index.search([index[item][0] for item in index], top_k=1))


# ------------------------------------------------------------------ what others may have written


def values(draw: random.Random):
    return draw.choice(
        [None, True, 0, -1, 1, 2**31, 2**63, 10**40, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "\x1b[2J"]
        + ["../x", [], [1], {}, {"a": 1}, [[]], "auto", "0" * 64]
    )


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner)[:20]:
        yield from places(part, (*path, key))


def write_manifest(folder, whole):
    whole["checksum"] = checksum(whole["index"])
    (folder / "manifest.json").write_text(json.dumps(whole))


def test_any_manifest_is_refused_or_searched_rightly(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(2_100, 8)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors, map(str, range(2_100)), kind="ivf-flat")
    index.remove([3])
    index.calibrate(0.01)
    index.save(tmp_path)
    clean = (tmp_path / "manifest.json").read_text()
    every = list(places(json.loads(clean)["index"]))
    draw, refused = random.Random(0), 0
    for _ in range(2_000):
        whole = json.loads(clean)
        for _ in range(draw.choice((1, 1, 2))):
            path, value = draw.choice(every), values(draw)
            at = whole["index"] if path else None
            try:
                for key in path[:-1]:
                    at = at[key]
                if not path:
                    whole["index"] = value
                elif draw.random() < 0.2:
                    del at[path[-1]]
                else:
                    at[path[-1]] = value
            except (KeyError, IndexError, TypeError):
                continue
        write_manifest(tmp_path, whole)
        try:
            loaded = SearchIndex.load(tmp_path)
            hit = loaded.search(vectors[7], top_k=1)[0]
            assert (hit.id, hit.text) == (7, "7")
            loaded.search(vectors[7], threshold="auto")
            loaded.describe()
            if loaded.facts()["fingerprint"] is None:  # an index that names its model takes vectors with it only
                loaded.add(["more"], vectors=vectors[:1])
        except BrokenIndexError:
            refused += 1
    assert 1_000 < refused < 2_000


def test_any_damaged_table_is_refused_or_read_rightly(tmp_path):
    small(40).save(tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    record = whole["index"]["segments"][0]["entries"]
    file, draw = tmp_path / record[0], random.Random(0)
    content, refused = file.read_bytes(), 0
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 3, 8))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        record[2] = hashlib.sha256(damaged).hexdigest()
        write_manifest(tmp_path, whole)
        try:
            SearchIndex.verify(tmp_path)
            loaded = SearchIndex.load(tmp_path)
            for item in loaded:
                text, metadata = loaded[item]
                assert len(text) < 100 and isinstance(metadata, dict)
        except BrokenIndexError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["entries", "words"])
@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_tables_are_refused(tmp_path, compression, kind):
    small(40).save(tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    segment = whole["index"]["segments"][0]
    record = segment["entries"] if kind == "entries" else segment["words"]["parts"][0]["file"]
    file = tmp_path / record[0]
    table = pa.ipc.open_file(pa.py_buffer(file.read_bytes())).read_all()
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    record[1:] = [file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()]
    write_manifest(tmp_path, whole)
    with pytest.raises(BrokenIndexError, match="compressed"):
        SearchIndex.verify(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_only_regular_files_belong_to_an_index(tmp_path):
    for part in ("manifest.json", "vectors-*", "entries-*", "lock"):
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
            folder = tmp_path / f"{part[:3]}{make.__name__}"
            small().save(folder)
            (file,) = folder.glob(part)
            file.unlink()
            make(file)
            index = small(5)
            for use in (
                (SearchIndex.load, SearchIndex.verify)
                if part != "lock"
                else (
                    lambda folder: index.save(folder, overwrite=True),  # noqa: B023
                )
            ):
                with pytest.raises(BrokenIndexError):
                    use(folder)


def test_a_structure_can_be_made_anew_instead_of_read(tmp_path, monkeypatch):
    from sentence_transformers_mirror.search import store

    vectors = np.random.default_rng(0).normal(size=(2_100, 8)).astype(np.float32)
    SearchIndex.from_vectors(vectors, map(str, range(2_100)), kind="hnsw").save(tmp_path)

    def refuse(*_):
        raise AssertionError("FAISS was given its file")

    monkeypatch.setattr(store, "read_structure", refuse)
    index = SearchIndex.load(tmp_path, structure="rebuild")
    assert index.facts()["structure"]["kind"] == "hnsw" and index.search(vectors[9])[0].id == 9
    SearchIndex.verify(tmp_path)
    with pytest.raises(ValueError, match="'read' or 'rebuild'"):
        SearchIndex.load(tmp_path, structure="other")


def test_what_data_says_is_printed_cleaned():
    evil = "\x1b]52;c;cm0=\x07"
    index = SearchIndex.from_vectors(VECTORS[:2], ["a", "b"], metadata=[{f"year{evil}": 1}] * 2)
    with pytest.raises(ValueError, match="the keys are: year") as error:
        index.search(VECTORS[0], where={"yeer": 1})
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("ids", "metadata"),
    [
        (["half \ud800"], None),
        ([10**5000], None),
        ([1], [{"a": "half \ud800"}]),
        ([1], [json.loads('{"a":' * 200 + "1" + "}" * 200)]),
        ([1], [{"a": float("inf")}]),
        ([1], [{1: "a"}]),
    ],
)
def test_what_would_break_later_searches_is_refused_at_the_door(ids, metadata):
    with pytest.raises((ValueError, TypeError)):
        SearchIndex.from_vectors(VECTORS[:1], ["a"], ids=ids, metadata=metadata)


def test_numbers_of_numpy_are_numbers():
    index = SearchIndex.from_vectors(
        VECTORS[:4], list("abcd"), ids=np.arange(4), metadata=[{"year": np.int64(2020 + n)} for n in range(4)]
    )
    two = np.int64(2)
    assert two in index and index[two] == ("c", {"year": 2022})
    for where in ({"year": np.int64(2022)}, {"year": np.array([2022])}, {"year": [np.float64(2022.0)]}):
        assert [hit.id for hit in index.search(VECTORS[2], top_k=np.int64(1), where=where)] == [2]
    index.update(two, "new", {}, vectors=VECTORS[:1])
    assert index[2] == ("new", {})
    index.remove(two)
    assert list(index) == [0, 1, 3]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        index.add(["a"], vectors=VECTORS[:1], batch_size=-1)


def test_any_damaged_words_are_refused_or_read_again(tmp_path):
    index = small(40)
    index.save(tmp_path)
    expected = {hit.id for hit in index.search(index[7][0], mode="words", top_k=40)}
    whole = json.loads((tmp_path / "manifest.json").read_text())
    (part,) = whole["index"]["segments"][0]["words"]["parts"]
    record = part["file"]
    file, draw = tmp_path / record[0], random.Random(0)
    content, refused = file.read_bytes(), 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 3, 8))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        record[2] = hashlib.sha256(damaged).hexdigest()
        write_manifest(tmp_path, whole)
        hits = SearchIndex.load(tmp_path).search(index[7][0], mode="words", top_k=40)
        try:
            SearchIndex.verify(tmp_path)
            assert all(0 <= hit.id < 40 and hit.words > 0 for hit in hits)
        except BrokenIndexError:
            assert {hit.id for hit in hits} == expected  # of words that were read again from the texts
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "change",
    [
        lambda index, part: index.update(language=7),
        lambda index, part: index.update(language="klingon"),
        lambda index, part: index.update(passages=0),
        lambda index, part: index.update(passages=40),  # of texts that are not cut
        lambda index, part: index["segments"][0].update(words=[]),
        lambda index, part: index["segments"][0]["words"].update(parts=[]),
        lambda index, part: index["segments"][0]["words"].update(reader=None),
        lambda index, part: part.update(rows=39),
        lambda index, part: part["file"].__setitem__(0, "../words-0123456789abcdef.arrow"),
        lambda index, part: part["file"].__setitem__(0, index["segments"][0]["entries"][0]),
    ],
)
def test_a_manifest_that_is_wrong_about_words_or_passages_is_refused(tmp_path, change):
    small(40).save(tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    change(whole["index"], whole["index"]["segments"][0]["words"]["parts"][0])
    write_manifest(tmp_path, whole)
    with pytest.raises(BrokenIndexError):
        SearchIndex.load(tmp_path)


def test_a_text_that_is_removed_in_parts_is_refused(tmp_path):
    from sentence_transformers_mirror import embedded_model_path

    text = "One sentence is here. Another one follows it! Is this the third? It is not the last. This is."
    index = SearchIndex.build(embedded_model_path(), [text, "short"], passages=12, kind="flat")
    index.save(tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    with saving.saving(tmp_path) as save:
        file = save.array("removed", np.array([1]))
        save.commit(Manifest.of({**whole["index"], "removed": {"file": list(file), "rows": 1}}))
    with pytest.raises(BrokenIndexError, match="removed in parts"):
        SearchIndex.verify(tmp_path)
