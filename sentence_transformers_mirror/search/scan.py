"""Exact search: vectors are scanned where they lie, without a copy, and scored again in an order that ties."""

from __future__ import annotations

import numpy as np

from sentence_transformers_mirror.search.faiss_runtime import load_faiss
from sentence_transformers_mirror.search.vectors import Near, Vectors

# FAISS and numpy add in different orders, so their float32 inner products of unit vectors differ by about 1e-6. Rows
# that score within this margin of the last hit may be ties of it.
MARGIN = 1e-5
_BLOCK = 8_192  # rows that are rescored at a time, to stay in the processor's caches


def exact(vectors: Vectors, queries: np.ndarray, top_k: int, allowed: np.ndarray | None) -> Near:
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
        scores, rows = np.empty((len(queries), wanted), np.float32), np.empty((len(queries), wanted), np.int64)
        # What IndexFlatIP does inside, but on the vectors where they are: an IndexFlatIP keeps a copy of them.
        pointers = [faiss.swig_ptr(array) for array in (queries, block, scores, rows)]
        faiss.knn_inner_product(
            *pointers[:2], queries.shape[1], len(queries), len(block), wanted, *pointers[2:], selector
        )
        found.append((scores, rows + first))
    if not found:
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
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
