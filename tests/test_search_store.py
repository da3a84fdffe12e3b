"""What lies on disk: crashes, kills, damage, two writers. Without models, so that processes are cheap."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sentence_transformers_mirror.search import BrokenIndexError, ConflictError, SearchIndex, saving
from sentence_transformers_mirror.search.manifest import Manifest, checksum, read_index

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


def vectors(count, dimension=8, seed=0):
    made = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def small(count=20, seed=0, **options):
    texts = [f"text {number} of {seed}" for number in range(count)]
    metadata = [{"even": number % 2 == 0} for number in range(count)]
    return SearchIndex.from_vectors(vectors(count, seed=seed), texts, metadata=metadata, **options)


def contents(index):
    """Everything a user can see of an index."""
    hits = index.search(vectors(3, seed=99), top_k=5) if len(index) else []
    by_words = index.search(["text 3", "number 0 of"], top_k=5, mode="words")
    return {item: index[item] for item in index}, (hits, by_words), index.facts()["calibration"]


class DyingFile(io.FileIO):
    """Writes half of what it is given and then dies, when its turn has come."""

    def __init__(self, file, turn):
        super().__init__(file, "xb")
        self.turn = turn

    def write(self, data):
        if self.turn():
            super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            os._exit(7)
        return super().write(data)


def dies_at(k, folder, change):
    """Run a change and save in a child that dies at the k-th write, fsync or replace; returns its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        done = 0

        def turn():
            nonlocal done
            done += 1
            return done == k

        def dying(call):
            return lambda *args: os._exit(7) if turn() else call(*args)

        saving._create = lambda file: DyingFile(file, turn)
        os.fsync, os.replace, Path.unlink = dying(os.fsync), dying(os.replace), dying(Path.unlink)
        change(folder)
        os._exit(0)
    except BaseException:
        os._exit(1)


def grow(folder):
    index = SearchIndex.load(folder)
    index.add(["new one", "new two"], ids=["a", "b"], vectors=vectors(2, seed=5))
    index.remove([3])
    index.save(folder)


def replace(folder):
    small(5, seed=1).save(folder, overwrite=True)


@functools.cache
def inverted_lists():
    index = small(2_100, seed=2, kind="ivf-flat")
    assert index.facts()["structure"]["factory"].startswith("IVF")
    return index


def structured(folder):
    index = inverted_lists()
    index._homes.clear()  # as if it had just been built
    index.save(folder, overwrite=True)


@posix
@pytest.mark.parametrize("change", [grow, replace, structured])
def test_a_crash_at_any_point_leaves_the_old_index_or_the_new_one(tmp_path, change):
    inverted_lists()  # not in each child
    small().save(tmp_path / "new")
    change(tmp_path / "new")
    small().save(tmp_path / "index")
    before, after = contents(SearchIndex.load(tmp_path / "index")), contents(SearchIndex.load(tmp_path / "new"))
    assert before[0] != after[0]
    outcomes = []
    for k in range(1, 1000):
        code = dies_at(k, tmp_path / "index", change)
        assert code in (0, 7), f"the child failed at crash point {k}"
        found = contents(SearchIndex.load(tmp_path / "index"))
        outcomes.append(found == after)
        assert found in (before, after)
        SearchIndex.verify(tmp_path / "index")
        if code == 0:
            break
        if found == after:
            small().save(tmp_path / "index", overwrite=True)
    assert code == 0 and outcomes[-1]
    # The commit is one point: before it always the old index, after it always the new one.
    assert outcomes == sorted(outcomes) and outcomes.count(False) > 10 and outcomes.count(True) > 1
    # What the crashes left behind was swept by the save that came through.
    assert {file.name for file in (tmp_path / "index").iterdir()} == {"manifest.json", "lock"} | set(
        file.name for file in Manifest.of(read_index(tmp_path / "index")).files()
    )


KILLER = """
import os, random, signal, sys, time
import faiss, filelock, tqdm.auto  # once, and not in each child
import numpy as np
from sentence_transformers_mirror.search.choosing import Choice
from sentence_transformers_mirror.search.index import SearchIndex

folder, kills = sys.argv[1], int(sys.argv[2])
draw = random.Random(0)
vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
SearchIndex.from_vectors(vectors, [f"text {n}" for n in range(40)], kind="flat").save(folder)
finished = promised = 0
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        index = SearchIndex.load(folder)
        number = max((item for item in index if item >= 1000), default=999)
        while True:
            number += 1
            index.add([f"text {number}"], ids=[number], vectors=vectors[number % 40][None])
            if number % 3 == 0 and number > 1010:
                index.remove([number - 10])
            index.save(folder)
            os.write(writer, number.to_bytes(8, "little"))  # only now is it promised
    os.close(writer)
    told = b"".join(os.read(reader, 8) for _ in range(draw.randrange(4)))  # it does get somewhere, and then at any
    time.sleep(draw.uniform(0.0, 0.015))  # moment of the next saves:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        told += pipe.read()
    if told:
        promised = int.from_bytes(told[-8:], "little")
        finished += len(told) // 8
    SearchIndex.verify(folder)
    index = SearchIndex.load(folder)
    ids = set(index)
    last = max((item for item in ids if item >= 1000), default=0)
    assert promised <= last <= promised + 1 or last == promised == 0, (promised, last)
    removed = {n - 10 for n in range(1011, last + 1) if n % 3 == 0}
    assert ids == (set(range(40)) | set(range(1000, last + 1))) - removed if last else ids == set(range(40))
    assert all(index[item][0] == f"text {item}" for item in ids)
    promised = last  # what was seen once must stay
print("torch" in sys.modules, finished)
"""


@posix
def test_200_kills_at_random_moments(tmp_path):
    command = [sys.executable, "-c", KILLER, str(tmp_path / "index"), "200"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch, finished = done.stdout.split()
    assert torch == "False" and int(finished) > 200


def test_every_flipped_or_cut_byte_is_harmless_or_named(tmp_path):
    folder = tmp_path / "index"
    index = small(2_100, kind="ivf-flat", seed=2)
    index.remove(list(range(5)))
    index.calibrate(0.01)
    index.save(folder)
    whole = contents(SearchIndex.load(folder))
    rng = np.random.default_rng(0)
    files = sorted(file for file in folder.iterdir() if file.name != "lock")
    assert len(files) == 6
    harmless = 0
    for attempt in range(600):
        file = files[attempt % 6]
        content = file.read_bytes()
        position = int(rng.integers(min(len(content), 4096) if attempt % 3 else len(content)))
        if attempt % 2:
            damaged = content[:position]
        else:
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        if file.name.startswith(("faiss", "words")):  # only caches
            with pytest.raises(BrokenIndexError, match=file.name):
                SearchIndex.verify(folder)
            if attempt < 60:
                found = contents(SearchIndex.load(folder))
                assert found[0] == whole[0] and (found == whole or file.name.startswith("faiss"))
                harmless += 1
        else:
            try:
                found = contents(SearchIndex.load(folder))
            except BrokenIndexError as error:
                assert file.name in str(error)
            else:
                assert file.name == "manifest.json" and found == whole
                harmless += 1
        file.write_bytes(content)
    assert 0 < harmless < 100
    assert contents(SearchIndex.load(folder)) == whole


def test_a_damaged_or_missing_structure_is_made_again(tmp_path, caplog):
    index = small(2_100, kind="hnsw")
    index.save(tmp_path)
    (file,) = tmp_path.glob("faiss-*")
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-9] + b"damaged.."), file.unlink):
        damage()
        for make in (SearchIndex.load, SearchIndex.open):
            loaded = make(tmp_path)
            assert contents(loaded)[0] == contents(index)[0]
            assert "made again from the vectors" in caplog.text
            caplog.clear()
    loaded.save(tmp_path)
    SearchIndex.verify(tmp_path)


def test_an_open_index_is_saved_though_the_folder_of_another_save_is_gone(tmp_path):
    small().save(tmp_path / "first")
    index = SearchIndex.open(tmp_path / "first")
    before = contents(index)
    index.save(tmp_path / "second")
    shutil.rmtree(tmp_path / "second")
    for name in ("first", "second", "third"):
        index.save(tmp_path / name)
        SearchIndex.verify(tmp_path / name)
        assert contents(SearchIndex.load(tmp_path / name)) == before
    shutil.rmtree(tmp_path / "first")  # which it was opened from: it is copied from another
    index.save(tmp_path / "fourth")
    assert contents(SearchIndex.load(tmp_path / "fourth")) == before
    for name in ("second", "third", "fourth"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(BrokenIndexError, match="were damaged or deleted since it was opened"):
        index.save(tmp_path / "fifth")


def test_verify_finds_an_id_that_is_there_twice(tmp_path, monkeypatch):
    """Which no call of the package writes."""
    monkeypatch.setattr("sentence_transformers_mirror.search.rows.check_new", lambda ids, seen: None)
    vectors = np.eye(4, dtype=np.float32)
    SearchIndex.from_vectors(vectors, list("abcd"), ids=["x", 3, -1, -2]).save(tmp_path / "different")
    assert hash(-1) == hash(-2)
    assert SearchIndex.verify(tmp_path / "different")["texts"] == 4
    SearchIndex.from_vectors(vectors, list("abcd"), ids=["x", 3, "y", 3]).save(tmp_path / "twice")
    with pytest.raises(BrokenIndexError, match="has an id twice: build the index again"):
        SearchIndex.verify(tmp_path / "twice")


def test_open_verifies_what_it_uses(tmp_path):
    index = small()
    index.save(tmp_path)
    (entries,) = tmp_path.glob("entries-*")
    content = bytearray(entries.read_bytes())
    content[len(content) // 2] ^= 1
    entries.write_bytes(content)
    opened = SearchIndex.open(tmp_path)
    (hit,) = opened.search(vectors(1)[0], top_k=1)
    with pytest.raises(BrokenIndexError, match=entries.name):
        _ = hit.text
    entries.write_bytes(content[:-1])
    with pytest.raises(BrokenIndexError, match="bytes and not"):
        SearchIndex.open(tmp_path)


def test_an_open_index_outlives_the_saves_of_others(tmp_path):
    index = small()
    index.save(tmp_path)
    opened, before = SearchIndex.open(tmp_path), contents(index)
    replace(tmp_path)
    assert contents(opened) == before
    assert contents(SearchIndex.open(tmp_path)) != before


def test_readers_keep_their_view_while_a_writer_saves(tmp_path):
    small().save(tmp_path)
    stop, errors = threading.Event(), []

    def reads():
        while not stop.is_set():
            try:
                loaded = SearchIndex.load(tmp_path)
                assert len(loaded) in (20, 5) and len(contents(loaded)[0]) == len(loaded)
            except BaseException as error:
                errors.append(error)
                raise

    readers = [threading.Thread(target=reads) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        small(5 if turn % 2 else 20).save(tmp_path, overwrite=True)
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors


def test_two_writers_exclude_each_other(tmp_path):
    with saving.saving(tmp_path):
        with pytest.raises(ConflictError, match="Another program is writing"):
            with saving.saving(tmp_path, timeout=0.05):
                pass
    with saving.saving(tmp_path, timeout=0.05):
        pass


def test_a_change_of_another_program_is_not_overwritten(tmp_path):
    small().save(tmp_path)
    mine, theirs = SearchIndex.load(tmp_path), SearchIndex.load(tmp_path)
    theirs.add(["theirs"], vectors=vectors(1))
    theirs.save(tmp_path)
    mine.add(["mine"], vectors=vectors(1))
    with pytest.raises(ConflictError, match="changed by another program"):
        mine.save(tmp_path)
    assert "theirs" in {text for text, _ in contents(SearchIndex.load(tmp_path))[0].values()}
    theirs.remove(0)
    theirs.save(tmp_path)  # the last who saved may go on
    mine.save(tmp_path / "copy")
    assert len(SearchIndex.load(tmp_path / "copy")) == 21


def test_saving_after_a_small_change_writes_little(tmp_path):
    index = small(2_000)
    index.save(tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("vectors-*")}
    known = set(tmp_path.iterdir())
    loaded = SearchIndex.open(tmp_path)
    loaded.add(["one more"], vectors=vectors(1))
    loaded.remove(7)
    loaded.save(tmp_path)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("vectors-*")}
    assert before.items() < after.items() and len(after) == 2
    assert sum(file.stat().st_size for file in set(tmp_path.glob("*-*")) - known) < 20_000


@posix
@pytest.mark.parametrize("fault", ["full disk", "read-only folder"])
def test_a_disk_that_takes_nothing(tmp_path, fault):
    folder = tmp_path / "index"
    small().save(folder)
    before, files = contents(SearchIndex.load(folder)), sorted(folder.iterdir())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if fault == "full disk":
                import resource

                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))
            else:
                os.chmod(folder, 0o555)
                os.chmod(tmp_path, 0o755)
                if os.geteuid() == 0:
                    os.setuid(65534)
            small(200).save(folder, overwrite=True)
            os.write(writer, b"saved")
        except OSError as error:
            os.write(writer, str(error).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode()
    os.chmod(folder, 0o755)
    assert message.startswith(f"The index could not be saved in {folder}, what was there is unchanged: ")
    assert os.strerror(errno.EFBIG if fault == "full disk" else errno.EACCES) in message
    assert contents(SearchIndex.load(folder)) == before and sorted(folder.iterdir()) == files


def test_no_file_needs_pickle_and_all_are_what_the_format_says(tmp_path):
    index = small(2_100, kind="hnsw")
    index.remove(0)
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["version"] == 2
    names = {file.name for file in Manifest.of(manifest["index"]).files()}
    assert len(names) == 5 and all(saving._FILE_NAME.fullmatch(name) for name in names)
    for file in tmp_path.glob("*.npy"):
        assert len(np.load(file, allow_pickle=False))


@pytest.mark.parametrize("part", ["vectors", "entries", "words"])
@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "..", "vectors.npy", 3])
def test_no_name_points_outside_the_folder(tmp_path, part, name):
    folder = tmp_path / "index"
    small().save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    segment = manifest["index"]["segments"][0]
    (segment["words"]["parts"][0]["file"] if part == "words" else segment[part])[0] = name
    manifest["checksum"] = checksum(manifest["index"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for read in (SearchIndex.load, SearchIndex.open, SearchIndex.verify):
        with pytest.raises(
            BrokenIndexError,
            match=rf"manifest.json describes no index, index.segments\[0\].*{part}.* is no file of an index",
        ):
            read(folder)


@pytest.mark.parametrize("change", ["drop segments", "drop choice", "rows as text", "huge", "null"])
def test_a_manifest_that_describes_no_index(tmp_path, change):
    small().save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    index = manifest["index"]
    if change.startswith("drop"):
        del index[change.split()[1]]
    elif change == "rows as text":
        index["segments"][0]["rows"] = "20"
    elif change == "huge":
        index["segments"][0]["rows"] = 2**62
    else:
        index["segments"] = None
    manifest["checksum"] = checksum(index)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for read in (SearchIndex.load, SearchIndex.open, SearchIndex.verify):
        with pytest.raises(BrokenIndexError):
            read(tmp_path)
