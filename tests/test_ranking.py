from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from sentence_transformers_mirror.evidence import ranking
from sentence_transformers_mirror.evidence.ranking import look_alikes, reciprocal_ranks, tfidf_reciprocal_ranks

PASSAGES = [
    "It raises an error if the file is missing.",
    "It raises an error if the folder is missing.",
    "The thread must have been started before.",
    "Threads are joined in the order in which they were started.",
    "Colours are names or three numbers.",
]


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def by_plain_loop(queries, passages, candidates):
    result = []
    for i, query in enumerate(queries):
        own = cosine(query, passages[i])
        rank = 1.0
        for j in candidates[i]:
            gap = cosine(query, passages[j]) - own
            if j != i and gap > 1e-6:
                rank += 1
            elif j != i and abs(gap) <= 1e-6:
                rank += 0.5
        result.append(1 / rank)
    return result


# Few different small integers, zero vectors among them: nearly every row ties with some other.
@given(arrays(np.int8, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 3)), elements=st.integers(-2, 2)))
def test_ranks_and_ties_as_by_a_plain_loop(vectors):
    queries, passages = vectors.astype(float)
    n = len(queries)
    expected = by_plain_loop(queries, passages, [range(n)] * n)
    np.testing.assert_allclose(reciprocal_ranks(queries, passages), expected)
    np.testing.assert_allclose(reciprocal_ranks(csr_matrix(queries), csr_matrix(passages)), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_blocks_and_candidates(dtype, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    passages = rng.normal(size=(30, 8)).astype(dtype)
    queries = (passages + rng.normal(size=(30, 8))).astype(dtype)
    candidates = rng.integers(0, 30, size=(30, 5))
    candidates[::3, 2] = np.arange(30)[::3]  # a passage is no rival of itself
    exact = queries.astype(float), passages.astype(float)
    np.testing.assert_allclose(reciprocal_ranks(queries, passages), by_plain_loop(*exact, [range(30)] * 30))
    ranks = reciprocal_ranks(queries, passages, candidates)
    np.testing.assert_allclose(ranks, by_plain_loop(*exact, candidates))
    assert ranks.mean() > reciprocal_ranks(queries, passages).mean()


def test_a_collapsed_encoder_gains_nothing_from_its_ties():
    rng = np.random.default_rng(0)
    collapsed = np.ones((99, 8)) + 1e-8 * rng.normal(size=(99, 8))
    np.testing.assert_allclose(reciprocal_ranks(collapsed, collapsed), 1 / 50)


def test_what_cannot_be_ranked_is_refused():
    vectors = np.eye(3)
    with pytest.raises(ValueError, match="NaN"):  # nothing compares as nearer than NaN: it would rank first
        reciprocal_ranks(vectors, np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="Query i belongs to passage i"):
        reciprocal_ranks(vectors, vectors[:2])
    with pytest.raises(ValueError, match="0 sample"):
        reciprocal_ranks(vectors[:0], vectors[:0])


def test_look_alikes_share_telling_words(monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", 2)
    nearest = look_alikes(PASSAGES, k=2)
    assert nearest.shape == (5, 2)
    assert nearest[:4, 0].tolist() == [1, 0, 3, 2]
    assert nearest[4].tolist() == [3, 0]  # "are"; and then nothing in common with any, so in their order


def test_no_more_look_alikes_than_other_passages():
    nearest = look_alikes(PASSAGES, k=99)
    assert [sorted(row) for row in nearest.tolist()] == [[j for j in range(5) if j != i] for i in range(5)]
    # Where no word has two characters, characters are words.
    assert look_alikes(["? !", "! ?", "."], k=1)[:2].tolist() == [[1], [0]]
    with pytest.raises(ValueError, match="empty vocabulary"):
        look_alikes([" ", ""])


def test_tfidf_finds_words_and_nothing_else():
    queries = ["a missing folder", "a missing folder", "start the thread", "a list of threads", "paint"]
    # Two queries of one wording: one of them has the wrong passage first. "paint" is in no passage: all of them tie.
    expected = [1 / 2, 1, 1, 1, 1 / 3]
    np.testing.assert_allclose(tfidf_reciprocal_ranks(queries, PASSAGES), expected)
    rivals = np.array([[2], [2], [3], [0], [0]])
    np.testing.assert_allclose(tfidf_reciprocal_ranks(queries, PASSAGES, rivals), [1, 1, 1, 1, 1 / 1.5])
