"""The nearest vectors: from a structure where there is one, which the vectors have the last word over.

The vectors are the truth and a FAISS structure is a cache over them: it proposes candidates, and where it keeps them
in fewer bits, the scores that are returned are computed from the vectors.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from sentence_transformers_mirror.search.scan import MARGIN, exact, rescored, scan
from sentence_transformers_mirror.search.structure import Structure
from sentence_transformers_mirror.search.vectors import Near, Vectors

# Among so many allowed rows, a scan of them (a few milliseconds) is preferred to asking a structure harder.
_SCANNED = 20_000


def search(
    vectors: Vectors, structure: Structure | None, queries: np.ndarray, top_k: int, allowed: np.ndarray | None = None
) -> Near:
    """Find the rows with the highest inner products.

    Without a structure, and among few allowed rows, the result is exact, and equal scores come in the order of the
    rows. A result does not depend on the other queries in the call.

    Args:
        vectors: Unit vectors.
        structure: Over the first of them, or None.
        queries: Unit vectors, shape (queries, dimension), float32, C-contiguous, finite.
        top_k: Rows wanted for each query, at least 1; more than are allowed gives all of these.
        allowed: Whether a row may be found, shape (rows,), bool; None allows all.

    Returns:
        Scores, float32, highest first, and rows, int64, both of shape (queries, min(top_k, rows allowed)).
    """
    size = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    top_k = min(top_k, size)
    if top_k == 0 or not len(queries):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    if allowed is not None and size <= _SCANNED and size < len(vectors) // 2:
        rows = np.flatnonzero(allowed)
        scores, found = exact(Vectors([vectors.take(rows)]), queries, top_k, None)
        return scores, rows[found]
    if structure is None:
        return exact(vectors, queries, top_k, allowed)
    return _approximate(vectors, structure, queries, top_k, allowed, size)


def _approximate(
    vectors: Vectors, structure: Structure, queries: np.ndarray, top_k: int, allowed: np.ndarray | None, size: int
) -> Near:
    # A structure looks at so many rows, whether they are allowed or not: the fewer are, the more it has to look at.
    effort = min(math.ceil(structure.effort * len(vectors) / size), structure.limit)
    found: Near | None = None
    coarse: np.ndarray | None
    pending = np.arange(len(queries))
    for _ in range(4):
        asked = queries if found is None else queries[pending]
        try:
            coarse, near = structure.candidates(asked, top_k, allowed, effort)
        except RuntimeError:  # this structure takes no selector
            break
        if len(structure.order) < len(vectors):
            near = np.concatenate([near, scan(vectors, asked, top_k, allowed, len(structure.order))[1]], axis=1)
            coarse = None
        if found is None:
            # Nearly always all is there at once. In Python: the first call of a numpy function after FAISS has swept
            # the caches takes longer than a loop over ten numbers.
            if near.shape[1] >= top_k and not any(-1 in line for line in near.tolist()):
                return _settled(vectors, structure, queries, coarse, near, top_k)
            found = np.empty((len(queries), top_k), np.float32), np.empty((len(queries), top_k), np.int64)
        enough = np.count_nonzero(near >= 0, axis=1) >= top_k
        if enough.any():
            done = pending[enough]
            found[0][done], found[1][done] = rescored(vectors, queries[done], near[enough], top_k)
            pending = pending[~enough]
        if not len(pending) or effort >= structure.limit:
            break
        effort = min(2 * effort, structure.limit)
    if found is None:
        return exact(vectors, queries, top_k, allowed)
    if len(pending):
        found[0][pending], found[1][pending] = exact(vectors, queries[pending], top_k, allowed)
    return found


def _settled(
    vectors: Vectors,
    structure: Structure,
    queries: np.ndarray,
    coarse: np.ndarray | None,
    near: np.ndarray,
    top_k: int,
) -> Near:
    """The best of candidates that are enough, by the structure's own scores where these are those of the vectors."""
    if coarse is None or not structure.whole:
        return rescored(vectors, queries, near, top_k)
    for number, line in enumerate(coarse.tolist()):
        # Near ties may be ties: FAISS need not add up equal rows in the same order.
        if any(better - worse < MARGIN for better, worse in itertools.pairwise(line)):
            one = slice(number, number + 1)
            coarse[one], near[one] = rescored(vectors, queries[one], near[one], near.shape[1])
    return coarse[:, :top_k], near[:, :top_k]
