"""Unit vectors, as they come and as they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sentence_transformers_mirror.printable import quoted

Near = tuple[np.ndarray, np.ndarray]  # scores and rows of the nearest, both of shape (queries, hits)


class Vectors:
    """Arrays of vectors, shape (rows, dimension) each, numbered through as if they were one."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the vectors of some rows, shape (*rows.shape, dimension); of -1 any vector."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        owners = np.maximum(np.searchsorted(self.starts, rows, side="right") - 1, 0)
        taken = np.empty((*rows.shape, self.parts[0].shape[1]), np.float32)
        for number in np.unique(owners):
            mine = owners == number
            taken[mine] = self.parts[number][rows[mine] - self.starts[number]]
        return taken


def unit(vectors: np.ndarray, texts: Sequence[object], before: int | None = None) -> np.ndarray:
    """Vectors of texts as float32 of length 1; refuses zero and non-finite ones, counting from the texts before."""
    vectors = np.ascontiguousarray(vectors, np.float32)  # half precision normalises to three digits only
    squares = np.vecdot(vectors, vectors)
    if not all(1e-20 < square < 1e20 for square in squares.tolist()):
        # Where squares of a float32 overflow or vanish, they do not in float64.
        vectors = vectors.astype(np.float64)
        squares = np.vecdot(vectors, vectors)
        unusable = [row for row, square in enumerate(squares.tolist()) if not 0 < square < math.inf]  # NaN is not
        if unusable:
            number = "" if before is None else f"text {before + unusable[0] + 1:,}, "
            raise ValueError(
                f"{len(unusable)} of {len(texts)} texts have a zero or non-finite vector, which nothing can find, "
                f"first {number}{quoted(texts[unusable[0]])}: leave such texts out or repair the model."
            )
    return (vectors / np.sqrt(squares)[:, None]).astype(np.float32, copy=False)
