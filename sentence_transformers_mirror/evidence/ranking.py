"""Does an encoder put what belongs together next to each other? Measured by ranking, without labels: see `verdict`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import safe_sparse_dot

# Equal texts get cosines that differ in the seventh digit if they were padded to different lengths.
_TIE = 1e-6
_BLOCK = 1024  # queries at a time, to bound the memory of their similarities to all passages


def reciprocal_ranks(
    queries: np.ndarray | csr_matrix, passages: np.ndarray | csr_matrix, candidates: np.ndarray | None = None
) -> np.ndarray:
    """Rank each query's own passage by cosine similarity.

    A rank is 1 + the number of other passages that are nearer + half the number of those that tie, within 1e-6: the
    mean of all orders of the ties. Counting ties for the query would reward an encoder that collapsed, counting them
    against it would push down lexical baselines, to which all texts without a word in common are equal.

    Passage i belongs to query i. ``candidates``, shape (n, k), are rows of passages to rank it among, such as those of
    `look_alikes`; by default all. Returns 1 / rank, float64, shape (n,), each in (0, 1].
    """
    if queries.shape != passages.shape:
        raise ValueError(f"Query i belongs to passage i: shapes must be equal, not {queries.shape}, {passages.shape}.")
    # Also refuses NaN, for which no passage is ever nearer, so that a broken model would rank first everywhere.
    queries, passages = (normalize(vectors.astype(np.float32, copy=False)) for vectors in (queries, passages))
    n = queries.shape[0]
    reciprocal = np.empty(n)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))[:, None]
        scores = safe_sparse_dot(queries[rows[:, 0]], passages.T, dense_output=True)
        columns = np.arange(n)[None] if candidates is None else candidates[rows[:, 0]]
        gaps = scores[np.arange(len(rows))[:, None], columns] - np.take_along_axis(scores, rows, axis=1)
        others = columns != rows
        nearer = ((gaps > _TIE) & others).sum(axis=1)
        ties = ((np.abs(gaps) <= _TIE) & others).sum(axis=1)
        reciprocal[rows[:, 0]] = 1 / (1 + nearer + ties / 2)
    return reciprocal


def look_alikes(passages: Sequence[str], k: int = 20) -> np.ndarray:
    """Rows of the passages that share the most telling words with each, most alike first, for `reciprocal_ranks`.

    Among all passages most are about something else and easily told apart. Among look-alikes words alone help less.
    """
    vectors = _vectorizer(passages).transform(passages)
    n = vectors.shape[0]
    nearest = np.empty((n, min(k, n - 1)), dtype=np.int64)
    for start in range(0, n, _BLOCK):
        scores = (vectors[start : start + _BLOCK] @ vectors.T).toarray()
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -1
        nearest[start : start + _BLOCK] = np.argsort(-scores, axis=1, kind="stable")[:, : nearest.shape[1]]
    return nearest


def tfidf_reciprocal_ranks(
    queries: Sequence[str], passages: Sequence[str], candidates: np.ndarray | None = None
) -> np.ndarray:
    """`reciprocal_ranks` of TF-IDF vectors: the floor that an encoder must clear to be worth its cost."""
    vectorizer = _vectorizer(passages)
    return reciprocal_ranks(vectorizer.transform(queries), vectorizer.transform(passages), candidates)


def _vectorizer(passages: Sequence[str]) -> TfidfVectorizer:
    """Of their words; of their characters, where no word has two."""
    try:
        return TfidfVectorizer(sublinear_tf=True).fit(passages)
    except ValueError:
        return TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\S").fit(passages)
