"""Everything that touches FAISS.

The vectors are the truth and a FAISS structure is a cache over them: it proposes candidates, and the scores that are
returned are computed from the vectors.
"""

from __future__ import annotations

import sys

import numpy as np

# FAISS and numpy add in different orders, so their float32 inner products of unit vectors differ by about 1e-6. Rows
# that score within this margin of the last hit may be ties of it.
_MARGIN = 1e-5


class ExactIndex:
    """Exact search by inner product, with ties in the order of the rows.

    Args:
        vectors: Unit vectors, shape (rows, dim), float32, C-contiguous, finite, at least one row. Kept, not copied,
            beside the copy that FAISS makes.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        import faiss

        if sys.platform == "darwin":
            # The wheels of torch and of faiss each bring an OpenMP runtime there, and the two crash the process once
            # both start threads (faiss-wheels#73, pytorch#149201).
            faiss.omp_set_num_threads(1)
        self._vectors = vectors
        self._flat = faiss.IndexFlatIP(vectors.shape[1])
        self._flat.add(vectors)

    def search(self, queries: np.ndarray, top_k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find the rows with the highest inner products.

        A result depends neither on the other queries in the call nor on how FAISS breaks ties.

        Args:
            queries: Unit vectors, shape (queries, dim), float32, C-contiguous, finite.
            top_k: Rows wanted for each query, at least 1; more than there are gives all.

        Returns:
            For each query its scores, float32, highest first, and their rows, int64, both of shape
            (min(top_k, rows),). A row is never -1.
        """
        size = len(self._vectors)
        top_k = min(top_k, size)
        # FAISS pads with -1 where it has too few rows to give: never ask for more than there are. One row more than
        # wanted shows whether the last hit has ties that were left out.
        coarse, rows = self._flat.search(queries, min(top_k + 1, size))
        results = []
        for query, near, candidates in zip(queries, coarse, rows, strict=True):
            floor = near[top_k - 1] - _MARGIN
            if top_k < size and near[-1] >= floor:
                candidates = np.flatnonzero(self._vectors @ query >= floor)
            candidates = np.sort(candidates)
            # Not a matrix product: that adds up equal rows in different orders, and they would not tie.
            scores = (self._vectors[candidates] * query).sum(axis=1)
            best = np.argsort(-scores, kind="stable")[:top_k]
            results.append((scores[best], candidates[best]))
        return results
