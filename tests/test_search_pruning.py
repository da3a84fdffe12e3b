"""The best texts by words are found without a look at most texts: against the scores of all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_bm25 import plain_bm25
from test_search_words import sentences

from sentence_transformers_mirror.search import words

# The earlier a letter, the more texts have it: as in a language, few words are in most texts.
LETTER = st.sampled_from("aaaaaaaabbbbbbccccddefghijklmnop")
TEXTS = st.lists(st.lists(LETTER, max_size=9).map(" ".join), min_size=1, max_size=80)


def lexicon_of(texts, alive=None, cuts=()):
    parts = [
        words._postings(pa.chunked_array([pa.array(part, pa.large_string())]), None) for part in split(texts, cuts)
    ]
    return words.Lexicon(parts, alive, None)


def split(texts, cuts):
    places = [0, *sorted(cut % (len(texts) + 1) for cut in cuts), len(texts)]
    return [texts[low:high] for low, high in zip(places, places[1:], strict=False)]


def check(lexicon, asked, top_k, allowed):
    """The best rows against the scores of all rows. Gives these."""
    terms = lexicon.weighed(asked)
    assert all(term.most == term.parts.max() for term in terms)
    return check_terms(terms, len(lexicon), top_k, allowed)


def check_terms(terms, size, top_k, allowed=None):
    scores = words.scores(terms, np.arange(size))
    masked = scores if allowed is None else scores * allowed
    expected = [row for row in np.argsort(-masked, kind="stable") if masked[row] > 0][:top_k]
    found, rows = words.best(terms, size, top_k, allowed)
    assert rows.tolist() == expected and found.tolist() == scores[expected].tolist()  # to the last bit: ties are ties
    return scores


@settings(max_examples=200, deadline=None)
@given(data=st.data(), texts=TEXTS)
def test_nothing_is_missed(data, texts):
    """Whatever is a common word, a block and a large index; with removed texts, filters, ties and repeated words."""
    mask = st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)).map(np.array)
    alive = data.draw(st.none() | mask, "alive")
    allowed = data.draw(st.none() | mask, "allowed")
    if alive is not None:
        allowed = alive if allowed is None else alive & allowed
    asked = data.draw(st.lists(LETTER, min_size=1, max_size=12), "asked")
    with pytest.MonkeyPatch.context() as patch:
        for name, values in (
            ("_LARGE", [0, 0, 40]),
            ("_COMMON", [2, 4, 16]),
            ("_COLUMNS", [1, 32]),
            ("_BLOCK", [1, 2]),
        ):
            patch.setattr(words, name, data.draw(st.sampled_from(values), name))
        lexicon = lexicon_of(texts, alive, data.draw(st.lists(st.integers(0, 80), max_size=2), "cuts"))
        top_k = data.draw(st.integers(1, 12) | st.just(200), "top_k")
        for _ in range(2):  # the second time with columns that are there
            scores = check(lexicon, asked, top_k, allowed)
    there = np.arange(len(texts)) if alive is None else np.flatnonzero(alive)
    kept = [texts[row] for row in there]
    if any(map(str.split, kept)):
        np.testing.assert_allclose(scores[there], plain_bm25(kept, " ".join(asked)), atol=1e-5)


def term(weight, column, common):
    """A term with these parts, one of each row."""
    column = np.array(column, np.float32)
    rows = None if common else np.flatnonzero(column).astype(np.int32)
    return words.Term(weight, rows, column if common else column[rows], float(column.max()))


@settings(max_examples=500, deadline=None)
@given(
    data=st.data(),
    size=st.integers(1, 12),
    block=st.integers(1, 2),
    top_k=st.integers(1, 4),
    asked=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5),
)
def test_nothing_is_missed_by_a_hair(data, size, block, top_k, asked):
    """Scores of a few steps, so that many rows have just what they need, or a step less."""
    column = st.lists(st.sampled_from([0, 0, 0, 0.25, 0.5, 0.75]), min_size=size, max_size=size).filter(any)
    terms = [term(weight, data.draw(column), common) for weight, common in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_BLOCK", block)
        check_terms(terms, size, top_k)


def test_nothing_is_missed_by_rounding(monkeypatch):
    """One row has three rare words, the other a rare one and two common ones, and both the same but for rounding."""
    monkeypatch.setattr(words, "_BLOCK", 1)
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        rare, common, weights = rng.random(3), rng.random(2) / 10, 5 * rng.random(6)
        same = (weights[:3] @ rare - weights[4:] @ common) / weights[3]
        terms = [
            *(term(weight, [part, 0], False) for weight, part in zip(weights, rare, strict=False)),
            term(weights[3], [0, max(same, 0.01)], False),
            *(term(weight, [0, part], True) for weight, part in zip(weights[4:], common, strict=True)),
        ]
        check_terms(terms, 2, 1)


@pytest.mark.parametrize("share", [1, 0.9, 0.01])
def test_nothing_is_missed_in_20_000_real_sentences(share):
    texts = sentences(20_000)
    rng = np.random.default_rng(0)
    lexicon = lexicon_of(texts, cuts=[5_000, 12_000])
    allowed = None if share == 1 else rng.random(len(texts)) < share
    queries = [" ".join(texts[row].split()[:12]) for row in rng.integers(len(texts), size=60)]
    for query in [*queries, "the", "of the", "the the the a", "the array of x", "zyzzogeton"]:
        for top_k in (1, 10, 70):
            check(lexicon, words.terms_of(query, None), top_k, allowed)
    assert len(lexicon._columns) > 5


def test_texts_without_any_other_word_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(words, "_LARGE", 0)
    texts = ["the"] * 2_000 + ["the rare one"] * 8
    lexicon = lexicon_of(texts)
    terms = lexicon.weighed(["the", "rare"])
    looked = []
    monkeypatch.setattr(words, "scores", lambda terms, rows: looked.append(rows.tolist()) or np.ones(len(rows)))
    words.best(terms, len(lexicon), 1, None)
    assert looked == [list(range(2_000, 2_008))]
