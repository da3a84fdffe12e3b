"""Search by words and by both: against a plain loop over the texts, after changes, on disk, and on bad input."""

from __future__ import annotations

import functools
import json
import pickle
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn
from plain_bm25 import plain_bm25, plain_terms
from test_search_stateful import embed

from sentence_transformers_mirror import embedded_model_path
from sentence_transformers_mirror.search import BrokenIndexError, SearchIndex, fusion, saving, words
from sentence_transformers_mirror.search.manifest import FORMAT, Manifest, PostingsFile, WordsFiles, checksum
from sentence_transformers_mirror.texts.docstrings import read_docstrings

LANGUAGES = """The cat sat on the mat. Die Straße ist groß, STRASSE! Добро пожаловать в Москву
नमस्ते दुनिया 東京の天気とカタカナ, ﬁne ｆｕｌｌ e\u0301 é Ünï İstanbul ΣΊΣΥΦΟΣ ^ a_b c-d don't x²½ 7 🙂 'tis"""


def check(index, entries, query, top_k=10, where=None, allowed=lambda item: True):
    """Hits of an index against the plain loop over the entries, which are in the order of the index."""
    ids = list(entries)
    scores = plain_bm25(list(entries.values()), query)
    masked = scores * [allowed(item) for item in ids]
    hits = index.search(query, top_k=top_k, mode="words", where=where)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(masked[masked > 0])[::-1][:top_k], atol=1e-5)
    for hit in hits:
        assert hit.words == hit.score and hit.meaning is None and hit.text == entries[hit.id]
        assert abs(hit.score - scores[ids.index(hit.id)]) < 1e-5


@functools.cache
def _sentences():
    libraries = [None, Path(sklearn.__file__).parent]
    docstrings = (docstring for library in libraries for docstring in read_docstrings(library))
    return list(dict.fromkeys(one for docstring in docstrings for one in (docstring.first, *docstring.rest)))


def sentences(count):
    """Real ones, of the documentation of installed packages."""
    return _sentences()[:count]


@pytest.mark.parametrize("language", [None, "german"])
def test_a_query_is_split_as_the_texts_are(language):
    texts = [LANGUAGES, *LANGUAGES.split("\n"), *sentences(500)]
    rows, codes, terms = words.terms(pa.chunked_array([pa.array(texts, pa.large_string())]), language)
    found = [[] for _ in texts]
    for row, code in zip(rows.tolist(), codes.tolist(), strict=True):
        found[row].append(terms[code])
    assert found == [words.terms_of(text, language) for text in texts]
    if language is None:
        assert found == list(map(plain_terms, texts)) and "नमस्ते" in found[0]
        assert {"strasse", "fine", "full", "é", "東", "京", "カタカナ", "σίσυφοσ"} <= set(found[0])


def test_bm25_of_20_000_real_sentences_equals_a_plain_loop():
    texts = sentences(20_000)
    assert len(texts) == 20_000
    index = SearchIndex.from_vectors(np.ones((len(texts), 2)), texts, kind="flat", metadata=(
        {"third": number % 3 == 0} for number in range(len(texts))
    ))  # fmt: skip
    lexicon = index._snapshot.lexicon
    asked = random.Random(0).sample(texts, 5) + ["the the return value", "not in any of them: zyzzogeton"]
    for query in asked:
        expected = plain_bm25(texts, query)
        terms = lexicon.weighed(words.terms_of(query, None))
        np.testing.assert_allclose(words.scores(terms, np.arange(len(lexicon))), expected, atol=1e-5)
        check(index, dict(enumerate(texts)), query)
        check(index, dict(enumerate(texts)), query, 20, {"third": True}, lambda item: item % 3 == 0)
    assert "the" in lexicon._columns  # asked twice: made into a column, and read from it


@pytest.mark.parametrize("large", [0, 10_000])
def test_scores_are_right_after_changes_and_across_segments(tmp_path, monkeypatch, large):
    monkeypatch.setattr(words, "_LARGE", large)  # whether common words have columns
    texts = sentences(400)
    entries = dict(enumerate(texts[:200]))
    index = SearchIndex.from_vectors(embed(texts[:200]), texts[:200], kind="flat")
    rng = random.Random(1)
    check(index, entries, texts[3])
    for step in range(12):
        new = texts[200 + 10 * step : 210 + 10 * step]
        entries |= dict(zip(index.add(new, vectors=embed(new)), new, strict=True))
        gone = rng.sample(sorted(entries), 7)
        index.remove(gone)
        entries = {item: text for item, text in entries.items() if item not in gone}
        changed, text = rng.choice(sorted(entries)), rng.choice(texts)
        index.update(changed, text, vectors=embed([text]))
        del entries[changed]
        entries[changed] = text
        if step % 4 == 3:
            index.save(tmp_path)
            index = SearchIndex.open(tmp_path)
        for query in (texts[step], "the value of a", "the value of a"):
            check(index, entries, query)
        assert bool(index._snapshot.lexicon._columns) == (large == 0)
    index.remove(list(entries))
    assert index.search("value", mode="words") == []


def test_stems_and_the_stemmer_is_told():
    texts = ["the cats were running", "a dog"]
    plain, stemmed = (SearchIndex.from_vectors(np.eye(2), texts, language=one) for one in (None, "english"))
    assert plain.search("cat runs", mode="words") == []
    assert [hit.id for hit in stemmed.search("cat runs", mode="words")] == [0]
    assert stemmed.facts()["language"] == "english" and "english" in stemmed.describe()
    with pytest.raises(ValueError, match="There is no stemmer for the language 'klingon': choose one of .*german"):
        SearchIndex.from_vectors(np.eye(2), texts, language="klingon")


@pytest.fixture(scope="module")
def both():
    texts = sentences(300)
    return SearchIndex.build(embedded_model_path(), texts, kind="flat", show_progress=False), texts


@pytest.mark.parametrize("weight", [0, 0.2, 1])
def test_both_is_the_weighted_mean_of_scaled_scores(both, weight):
    index, texts = both
    query = "raise an error if the file does not exist"
    cosines = np.zeros(len(texts))
    for hit in index.search(query, top_k=len(texts)):
        cosines[hit.id] = hit.score
    bm25 = plain_bm25(texts, query)
    vectors = np.concatenate([segment.vectors for segment in index._snapshot.segments])
    chance = cosines.mean()  # the mean of products is the product with the mean
    assert abs(chance - (vectors @ index._state.encoder.queries([query])[0]).mean()) < 1e-5
    expected = weight * (cosines - chance) / (cosines.max() - chance) + (1 - weight) * bm25 / bm25.max()
    hits = index.search(query, top_k=len(texts), mode="both", weight=weight)
    assert len(hits) == len(texts)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=1e-4)
    for hit in hits:
        found = hit.score, hit.meaning, hit.words
        np.testing.assert_allclose(found, (expected[hit.id], cosines[hit.id], bm25[hit.id]), atol=1e-4)


def test_reciprocal_ranks_by_hand():
    cosines, bm25 = np.array([0.9, 0.5, 0.9, 0.1]), np.array([0.0, 3.0, 1.0, 3.0])
    expected = [0.3 / 61, 0.3 / 63 + 0.7 / 61, 0.3 / 61 + 0.7 / 63, 0.3 / 64 + 0.7 / 61]
    np.testing.assert_allclose(fusion.reciprocal_ranks(cosines, bm25, 0.3), expected)


def test_rrf_orders_by_ranks(both):
    index, texts = both
    query = "raise an error if the file does not exist"
    hits = index.search(query, top_k=5, mode="both", fusion="rrf")
    assert all(1 / 160 < hit.score <= 1 / 60 for hit in hits)
    alone = [{hit.id for hit in index.search(query, top_k=5, mode=mode)} for mode in ("meaning", "words")]
    assert hits[0].id in alone[0] | alone[1]


def test_both_without_a_word_in_the_query_is_meaning(both):
    index, _ = both
    expected = [hit.id for hit in index.search("?!", top_k=5)]
    assert [hit.id for hit in index.search("?!", top_k=5, mode="both")] == expected
    assert [hit.words for hit in index.search("?!", top_k=5, mode="both")] == [0] * 5


def test_the_threshold_is_a_cosine_but_bm25_by_words(both):
    index, _ = both
    query = "raise an error if the file does not exist"
    for mode, told in (("both", "meaning"), ("words", "words")):
        whole = index.search(query, top_k=50, mode=mode)
        least = np.median([getattr(hit, told) for hit in whole])
        kept = index.search(query, top_k=50, mode=mode, threshold=least)
        assert kept == [hit for hit in whole if getattr(hit, told) >= least] and 0 < len(kept) < len(whole)
    least = index.calibrate(0.1)
    expected = [hit for hit in index.search(query, mode="both") if hit.meaning >= least]
    assert index.search(query, mode="both", threshold="auto") == expected


def test_no_cosine_is_above_1():
    texts = [f"text {number}" for number in range(500)]
    snapshot = SearchIndex.from_vectors(np.random.default_rng(0).normal(size=(500, 24)), texts)._snapshot
    vectors = snapshot.vectors.take(np.arange(500))
    assert (vectors * vectors).sum(axis=1).max() > 1  # float32 rounds
    lines = fusion.by_both(snapshot, vectors, texts, 1, None, 1.0, "convex") + fusion.by_meaning(
        snapshot, vectors, 1, None
    )
    assert all(0.999 < line[0].meaning <= 1 for line in lines)


def test_several_queries_one_and_none(both):
    index, texts = both
    for mode in ("words", "both"):
        several = index.search(texts[:3], top_k=4, mode=mode)
        alone = [index.search(text, top_k=4, mode=mode) for text in texts[:3]]
        assert [[hit.id for hit in hits] for hits in several] == [[hit.id for hit in hits] for hits in alone]
        assert [hits[0].id for hits in several] == [0, 1, 2]
        assert index.search([], mode=mode) == []
    hit = index.search(texts[0], mode="both")[0]
    assert pickle.loads(pickle.dumps(hit)) == hit and hit.words > 0 and hit.meaning > 0.99


@pytest.mark.parametrize(
    "query, options, error, words_of_it",
    [
        ("?! 🙂", {"mode": "words"}, ValueError, "has no word in it"),
        ("a", {"mode": "word"}, ValueError, "mode must be"),
        ("a", {"mode": "both", "weight": 1.5}, ValueError, "from 0"),
        ("a", {"mode": "both", "weight": float("nan")}, ValueError, "from 0"),
        ("a", {"mode": "both", "weight": "much"}, ValueError, "from 0"),
        ("a", {"mode": "words", "weight": 0.5}, ValueError, "pass mode='both'"),
        ("a", {"mode": "both", "fusion": "sum"}, ValueError, "fusion must be"),
        ("a", {"mode": "words", "threshold": "auto"}, ValueError, "BM25"),
        ("a", {"mode": "words", "threshold": -1}, ValueError, "BM25"),
        ("a", {"mode": "both", "threshold": 2}, ValueError, "cosine"),
        (np.ones(6), {"mode": "words"}, TypeError, "needs a query in words"),
        (np.ones(6), {"mode": "both"}, TypeError, "needs a query in words"),
        (7, {"mode": "words"}, TypeError, "must be a string"),
        (" ", {"mode": "words"}, ValueError, "blank"),
        ("a", {"mode": "both"}, ValueError, "without a model"),
    ],
)
def test_bad_input_is_told_in_one_sentence(query, options, error, words_of_it):
    index = SearchIndex.from_vectors(embed(["a b", "c"]), ["a b", "c"])
    with pytest.raises(error, match=words_of_it) as caught:
        index.search(query, **options)
    assert "\n" not in str(caught.value)


def test_texts_without_any_word(tmp_path):
    index = SearchIndex.from_vectors(embed(["!", "?"]), ["!", "?"])
    index.save(tmp_path)
    for made in (index, SearchIndex.load(tmp_path)):
        assert made.search("word", mode="words") == []
    SearchIndex.verify(tmp_path)


def saved(folder, **options):
    texts = [f"number {number} {'even' if number % 2 == 0 else 'odd'}" for number in range(40)]
    index = SearchIndex.from_vectors(embed(texts), texts, kind="flat", **options)
    index.save(folder)
    return index


def test_damaged_words_are_read_again_from_the_texts(tmp_path, caplog):
    expected = saved(tmp_path).search("even number 7", mode="words")
    for damage in ("flip", "cut", "unlink"):
        (file,) = tmp_path.glob("words-*")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "unlink":
            file.unlink()
        else:
            file.write_bytes(content if damage == "flip" else content[:-9])
        with pytest.raises(BrokenIndexError, match=file.name):
            SearchIndex.verify(tmp_path)
        for make in (SearchIndex.load, SearchIndex.open):
            index = make(tmp_path)
            assert index.search("even number 7", mode="words") == expected
        index.save(tmp_path)
        SearchIndex.verify(tmp_path)
        (repaired,) = tmp_path.glob("words-*")
        assert repaired != file or damage == "unlink"


def test_words_that_fit_their_checksum_but_not_the_texts_are_refused(tmp_path):
    saved(tmp_path)
    expected = SearchIndex.load(tmp_path).search("even number 7", mode="words")
    (good,) = tmp_path.glob("words-*")
    table = pa.ipc.open_file(pa.py_buffer(good.read_bytes())).read_all()
    lists = {"rows": pa.array([[40]], pa.large_list(pa.int32())), "counts": pa.array([[1]], pa.large_list(pa.uint8()))}
    bad = [
        pa.table({"term": pa.array(["even"], pa.large_string()), **lists}),  # a row that does not exist
        pa.table({"term": pa.array(["even"], pa.large_string()), **lists, "counts": lists["rows"]}),
        pa.table({"term": pa.array([None], pa.large_string()), **lists}),
        pa.table({"text": ["even"]}),
        table.slice(0, 3).set_column(
            2, "counts", pa.array([[1, 1], [1], [1]], pa.large_list(pa.uint8()))
        ),  # counts of other texts
    ]
    manifest = Manifest.of(json.loads((tmp_path / "manifest.json").read_bytes())["index"])

    def with_words(manifest, rows, file):
        (segment,) = manifest.segments
        parts = (PostingsFile(rows, file),)
        return replace(manifest, segments=(replace(segment, words=WordsFiles(segment.words.reader, parts)),))

    for one in bad:
        with saving.saving(tmp_path) as save:
            save.commit(with_words(manifest, 40, save.table("words", one)))
        with pytest.raises(BrokenIndexError, match="words-"):
            SearchIndex.verify(tmp_path)
        assert SearchIndex.open(tmp_path).search("even number 7", mode="words") == expected
    for rows in (39, -1, "40", None):
        with saving.saving(tmp_path) as save:
            save.commit(with_words(manifest, rows, save.table("words", table)))
        with pytest.raises(BrokenIndexError, match="manifest.json describes no index"):
            SearchIndex.open(tmp_path)


def test_words_of_another_stemmer_are_not_used(tmp_path, monkeypatch):
    expected = saved(tmp_path, language="english").search("evened numbers", mode="words")
    before = {file.name for file in tmp_path.glob("words-*")}
    monkeypatch.setattr(words, "reader", lambda language: f"2 {language}")
    index = SearchIndex.load(tmp_path)
    assert index.search("evened numbers", mode="words") == expected
    index.save(tmp_path)
    assert before.isdisjoint(file.name for file in tmp_path.glob("words-*"))


def test_an_index_of_format_1_is_read_and_becomes_2(tmp_path):
    expected = saved(tmp_path).search("even number 7", mode="words")
    index = json.loads((tmp_path / "manifest.json").read_bytes())["index"]
    del index["language"], index["segments"][0]["words"]
    old = {"format": FORMAT, "version": 1, "checksum": checksum(index), "index": index}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    for file in tmp_path.glob("words-*"):
        file.unlink()
    SearchIndex.verify(tmp_path)
    old = SearchIndex.open(tmp_path)
    assert old.search("even number 7", mode="words") == expected
    old.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_bytes())["version"] == 2 and list(tmp_path.glob("words-*"))


def test_words_are_written_once(tmp_path):
    index = saved(tmp_path)
    names = {file.name for file in tmp_path.glob("words-*")}
    index.add(["one more"], vectors=embed(["one more"]))
    index.save(tmp_path)
    assert names < {file.name for file in tmp_path.glob("words-*")}


def test_threads_search_by_words_while_another_changes(tmp_path):
    texts = [f"common unique{number}" for number in range(600)]
    index = SearchIndex.from_vectors(embed(texts[:300]), texts[:300], kind="flat")
    stop, errors, searches = threading.Event(), [], [0] * 4

    def reads(number):
        rng = random.Random(number)
        try:
            while not stop.is_set():
                row = rng.randrange(300)
                (hit,) = index.search(f"unique{row}", mode="words")
                assert hit.id == row and hit.text == texts[row]
                assert len(index.search("common", mode="words", top_k=1_000)) >= 300
                searches[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for start in range(300, 600, 20):
            index.add(texts[start : start + 20], vectors=embed(texts[start : start + 20]))
            index.save(tmp_path)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors and min(searches) > 0


@pytest.mark.parametrize(
    "text, query, language, expected",
    [
        ("The cat, the CATS.", "cat", None, "The [cat], the CATS."),
        ("The cat, the CATS.", "cat", "english", "The [cat], the [CATS]."),
        ("東京の天気", "天", None, "東京の[天]気"),
        ("<b>Straße</b>", "STRASSE", None, "<b>[Straße]</b>"),
        ("nothing", "?", None, "nothing"),
    ],
)
def test_words_of_the_query_are_marked(text, query, language, expected):
    found = words.pieces(text, query, language)
    assert "".join(f"[{piece}]" if marked else piece for piece, marked in found) == expected
