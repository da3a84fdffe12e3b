"""The nearest vectors, which have the last word: a FAISS structure over them is a cache that proposes candidates.

Without one they are scanned where they lie. The scores of what is found are computed from the vectors, in an order in
which equal vectors tie.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from sentence_transformers_mirror.search.structure import Structure, load_faiss
from sentence_transformers_mirror.search.vectors import Near, Vectors

# FAISS and numpy add in different orders, so their float32 inner products of unit vectors differ by about 1e-6. Rows
# that score within this margin of the last hit may be ties of it.
MARGIN = 1e-5
# Among so many allowed rows, a scan of them (a few milliseconds) is preferred to asking a structure harder.
_SCANNED = 20_000
_TRIES = 4  # of a structure that finds too little, each with twice the effort
_BLOCK = 8_192  # rows that are rescored at a time, to stay in the processor's caches


def search(
    vectors: Vectors, structure: Structure | None, queries: np.ndarray, top_k: int, allowed: np.ndarray | None = None
) -> Near:
    """Find the rows with the highest inner products, as many of those that are allowed as are wanted.

    Without a structure, and among few allowed rows, the result is exact, and equal scores come in the order of the
    rows. A result does not depend on the other queries in the call. These are unit vectors, shape (queries,
    dimension), float32, C-contiguous, finite; the structure is over the first of the vectors; a mask says which rows
    are allowed, None for all.
    """
    size = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    top_k = min(top_k, size)
    if top_k == 0 or not len(queries):
        return _unfilled(len(queries), 0)
    if allowed is not None and size <= _SCANNED and size < len(vectors) // 2:
        rows = np.flatnonzero(allowed)
        scores, found = exact(Vectors([vectors.take(rows)]), queries, top_k, None)
        return scores, rows[found]
    if structure is None:
        return exact(vectors, queries, top_k, allowed)
    # A structure looks at so many rows, whether they are allowed or not: the fewer are, the more it has to look at.
    effort = min(math.ceil(structure.effort * len(vectors) / size), structure.limit)
    if effort != structure.effort:
        structure = replace(structure, effort=effort)
    return _approximate(vectors, structure, queries, top_k, allowed)


def _approximate(
    vectors: Vectors,
    structure: Structure,
    queries: np.ndarray,
    top_k: int,
    allowed: np.ndarray | None,
    tries: int = _TRIES,
) -> Near:
    """What the structure finds; where that is too little it is asked again and harder, and at last not at all."""
    try:
        scores, near = structure.candidates(queries, top_k, allowed)
    except RuntimeError:  # this structure takes no selector
        return exact(vectors, queries, top_k, allowed)
    covered = len(structure.order)
    if covered < len(vectors):
        near = np.concatenate([near, scan(vectors, queries, top_k, allowed, covered)[1]], axis=1)
    # Nearly always all is there at once. In Python: the first call of a numpy function after FAISS has swept the
    # caches takes longer than a loop over ten numbers.
    if tries == _TRIES and near.shape[1] >= top_k and not any(-1 in line for line in near.tolist()):
        if covered < len(vectors) or not structure.whole:
            return rescored(vectors, queries, near, top_k)
        return _in_order(vectors, queries, scores, near, top_k)
    found = _unfilled(len(queries), top_k)
    enough = np.count_nonzero(near >= 0, axis=1) >= top_k
    if enough.any():
        found[0][enough], found[1][enough] = rescored(vectors, queries[enough], near[enough], top_k)
    if not enough.all():
        rest = queries[~enough]
        if tries == 1 or structure.effort >= structure.limit:
            left = exact(vectors, rest, top_k, allowed)
        else:
            harder = replace(structure, effort=min(2 * structure.effort, structure.limit))
            left = _approximate(vectors, harder, rest, top_k, allowed, tries - 1)
        found[0][~enough], found[1][~enough] = left
    return found


def _in_order(vectors: Vectors, queries: np.ndarray, scores: np.ndarray, near: np.ndarray, top_k: int) -> Near:
    """The best by the scores of a structure that keeps vectors whole; near ties may be ties and are scored again."""
    for number, line in enumerate(scores.tolist()):
        if any(better - worse < MARGIN for better, worse in itertools.pairwise(line)):
            one = slice(number, number + 1)
            scores[one], near[one] = rescored(vectors, queries[one], near[one], near.shape[1])
    return scores[:, :top_k], near[:, :top_k]


def exact(vectors: Vectors, queries: np.ndarray, top_k: int, allowed: np.ndarray | None) -> Near:
    """What `search` gives without a structure."""
    # One row more than wanted shows whether the last hit has ties that were left out.
    coarse, rows = scan(vectors, queries, top_k + 1, allowed)
    scores, best = rescored(vectors, queries, rows, top_k)
    if rows.shape[1] > top_k:
        floor = coarse[:, top_k - 1] - MARGIN
        for number in np.flatnonzero(coarse[:, top_k] >= floor):
            near = np.concatenate([part @ queries[number] for part in vectors.parts]) >= floor[number]
            ties = np.flatnonzero(near if allowed is None else near & allowed)
            scores[number], best[number] = rescored(vectors, queries[number : number + 1], ties[None], top_k)
    return scores, best


def scan(vectors: Vectors, queries: np.ndarray, count: int, allowed: np.ndarray | None, start: int = 0) -> Near:
    """Scores and rows, shape (queries, at most count), of a scan of all rows from start on."""
    faiss = load_faiss()
    found = []
    for first, part in zip(vectors.starts, vectors.parts, strict=False):
        skipped = max(start - first, 0)
        first, block, selector = first + skipped, part[skipped:], None
        if allowed is not None:
            mine = allowed[first : first + len(block)]
            selector = faiss.IDSelectorBitmap(np.packbits(mine, bitorder="little"))
        # FAISS pads with -1 where it has too few rows to give: never ask for more than there are.
        wanted = min(count, len(block) if allowed is None else int(np.count_nonzero(mine)))
        if wanted == 0:
            continue
        scores, rows = _unfilled(len(queries), wanted)
        # What IndexFlatIP does inside, but on the vectors where they are: an IndexFlatIP keeps a copy of them.
        asked, given, *results = map(faiss.swig_ptr, (queries, block, scores, rows))
        faiss.knn_inner_product(asked, given, queries.shape[1], len(queries), len(block), wanted, *results, selector)
        found.append((scores, rows + first))
    if not found:
        return _unfilled(len(queries), 0)
    if len(found) == 1:
        return found[0]
    scores, rows = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


def rescored(vectors: Vectors, queries: np.ndarray, rows: np.ndarray, top_k: int) -> Near:
    """The best of some candidates (-1 is none), scored from the vectors, equal scores in the order of the rows."""
    scores = products(vectors, queries, rows)
    if rows.size and rows.min() < 0:
        scores[rows < 0] = -np.inf
    best = np.lexsort((rows, -scores))[:, :top_k]
    lines = np.arange(len(rows))[:, None]
    return scores[lines, best], rows[lines, best]


def products(vectors: Vectors, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products of each query with its own rows, of the shape of the rows; of -1 any number."""
    if rows.size > _BLOCK:
        axis = int(len(rows) == 1)
        halves = np.array_split(rows, 2, axis)
        owners = [queries, queries] if axis else np.array_split(queries, 2)
        return np.concatenate([products(vectors, *half) for half in zip(owners, halves, strict=True)], axis)
    # Not a matrix product: that adds up equal rows in different orders, and they would not tie.
    near = vectors.take(rows)
    near *= queries[:, None]
    return near.sum(axis=2)


def _unfilled(queries: int, hits: int) -> Near:
    return np.empty((queries, hits), np.float32), np.empty((queries, hits), np.int64)
