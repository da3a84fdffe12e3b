"""Random changes against a dictionary, and threads. No models: the vector of a text is a hash of it."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain_bm25 import plain_bm25, plain_terms

from sentence_transformers_mirror.search import SearchIndex

DIMENSION = 6


def embed(texts):
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts]
    return np.array([np.random.default_rng(seed).normal(size=DIMENSION) for seed in seeds], np.float32).reshape(
        -1, DIMENSION
    )


IDS = st.one_of(st.integers(-3, 30), st.sampled_from(["a", "b", "7", "ß", "", '"', "\n", "\u2028"]), st.just(2**70))
TEXTS = st.sampled_from(["one", "two", "three ", "vier", "пять", "six\nlines", "7", "🙂"])
METADATA = st.one_of(
    st.none(),
    st.fixed_dictionaries({"k": st.sampled_from([1, True, "1", None, 2.5, ["x", 1]]), "n": st.integers(0, 2)}),
)


class Machine(RuleBasedStateMachine):
    @initialize(entries=st.lists(st.tuples(IDS, TEXTS, METADATA), min_size=1, max_size=8, unique_by=lambda e: e[0]))
    def build(self, entries):
        self.folder = Path(tempfile.mkdtemp())
        ids, texts, metadata = map(list, zip(*entries, strict=True))
        self.index = SearchIndex.from_vectors(embed(texts), texts, ids=ids, metadata=metadata, kind="flat")
        self.model = {item: (text, extra or {}) for item, text, extra in entries}
        self.saved = None
        self.largest = max([-1, *(item for item in ids if isinstance(item, int))])

    def teardown(self):
        shutil.rmtree(getattr(self, "folder", "absent"), ignore_errors=True)

    def known(self, data, size=1):
        return data.draw(st.lists(st.sampled_from(list(self.model)), min_size=1, max_size=size, unique=True))

    @rule(entries=st.lists(st.tuples(IDS, TEXTS, METADATA), max_size=4))
    def add(self, entries):
        ids, texts, metadata = ([entry[i] for entry in entries] for i in range(3))
        try:
            self.index.add(texts, ids, metadata, vectors=embed(texts))
        except ValueError as error:
            assert len(set(ids)) < len(ids) or self.model.keys() & set(ids), error
        else:
            assert len(set(ids)) == len(ids) and not self.model.keys() & set(ids)
            self.model |= {item: (text, extra or {}) for item, text, extra in entries}
            self.largest = max([self.largest, *(item for item in ids if isinstance(item, int))])

    @rule(texts=st.lists(TEXTS, max_size=3))
    def add_numbered(self, texts):
        ids = self.index.add(texts, vectors=embed(texts))
        assert ids == [self.largest + 1 + number for number in range(len(texts))]
        self.model |= {item: (text, {}) for item, text in zip(ids, texts, strict=True)}
        self.largest += len(texts)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data):
        ids = self.known(data, 3)
        self.index.remove(ids)
        for item in ids:
            del self.model[item]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), text=TEXTS, metadata=METADATA)
    def update(self, data, text, metadata):
        (item,) = self.known(data)
        self.index.update(item, text, metadata, vectors=embed([text]))
        before = self.model.pop(item)
        self.model[item] = (text, before[1] if metadata is None else metadata)

    @rule(item=IDS)
    def unknown(self, item):
        if item not in self.model:
            for change in (
                lambda: self.index.remove([item]),
                lambda: self.index.update(item, "x", vectors=embed("x")),
            ):
                try:
                    change()
                except ValueError as error:
                    assert "is not in the index" in str(error)
                else:
                    raise AssertionError("an unknown id was accepted")

    @rule()
    def save(self):
        self.index.save(self.folder)
        self.saved = dict(self.model), self.largest

    @precondition(lambda self: self.saved is not None)
    @rule(mapped=st.booleans())
    def load(self, mapped):
        self.index = (SearchIndex.open if mapped else SearchIndex.load)(self.folder)
        self.model, self.largest = dict(self.saved[0]), self.saved[1]
        SearchIndex.verify(self.folder)

    @rule(wanted=st.sampled_from([1, True, "1", None, 2.5, "x", [1, 2.5]]), number=st.integers(0, 2))
    def filtered(self, wanted, number):
        def same(value, option):
            return value == option and isinstance(value, bool) == isinstance(option, bool)

        def meets(metadata):
            if "k" not in metadata or metadata["n"] != number:
                return False
            values = metadata["k"] if isinstance(metadata["k"], list) else [metadata["k"]]
            options = wanted if isinstance(wanted, list) else [wanted]
            return any(same(value, option) for value in values for option in options)

        expected = [item for item, (_, metadata) in self.model.items() if meets(metadata)]
        try:
            hits = self.index.search(embed(["one"])[0], top_k=100, where={"k": wanted, "n": number})
        except ValueError as error:
            assert "No entry has a value" in str(error) and not expected
        else:
            assert {repr(hit.id) for hit in hits} == set(map(repr, expected)) and len(hits) == len(expected)

    @invariant()
    def agrees(self):
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.model)
        assert list(map(repr, self.index)) == list(map(repr, self.model))
        for item, entry in self.model.items():
            assert item in self.index and self.index[item] == entry
        hits = self.index.search(embed(["two"])[0], top_k=4)
        ids, texts = list(self.model), [text for text, _ in self.model.values()]
        made, query = embed(texts), embed(["two"])[0]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        scores = made @ (query / np.linalg.norm(query))
        best = np.argsort(-scores.round(5), kind="stable")[:4]
        assert [repr(hit.id) for hit in hits] == [repr(ids[row]) for row in best]
        assert [hit.text for hit in hits] == [texts[row] for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
        self.agrees_by_words(ids, texts)

    def agrees_by_words(self, ids, texts):
        query = "one two 7 пять"
        scores = plain_bm25(texts, query) if any(map(plain_terms, texts)) else np.zeros(len(texts))
        best = [row for row in np.argsort(-scores.round(5), kind="stable") if scores[row] > 0]
        hits = self.index.search(query, top_k=100, mode="words")
        assert [repr(hit.id) for hit in hits] == [repr(ids[row]) for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)


TestAgainstADictionary = Machine.TestCase
TestAgainstADictionary.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_16_threads_search_while_another_adds_and_saves(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4_000, 16)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors[:2_500], map(str, range(2_500)), kind="ivf-flat")
    index.save(tmp_path)
    stop, errors, searches = threading.Event(), [], [0] * 16
    present = 2_500  # rows that have been added for certain

    def reads(number):
        mine = np.random.default_rng(number)
        try:
            while not stop.is_set():
                before = present
                row = int(mine.integers(before))
                if row % 50 == 0:
                    continue  # these are removed and come again
                (hit,) = index.search(vectors[row], top_k=1)
                assert (hit.id, hit.text) == (row, str(row)) and hit.score > 0.9999
                assert len(index) >= before - 50 and row in index
                searches[number] += 1
                time.sleep(0.005)  # or 16 readers leave the writer a seventeenth of the interpreter
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    try:
        for start in range(2_500, 4_000, 100):
            index.add(map(str, range(start, start + 100)), vectors=vectors[start : start + 100])
            present = start + 100
            gone = 50 * (start // 50)
            index.remove(gone)
            index.add([str(gone)], [gone], vectors=vectors[gone][None])
            index.save(tmp_path)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors and min(searches) > 5
    assert index.facts()["structure"]["rows"] > 2_500  # a structure was made anew meanwhile
    loaded = SearchIndex.load(tmp_path)
    assert set(loaded) == set(range(4_000))
