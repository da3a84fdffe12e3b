"""A FAISS index over vectors: a cache that proposes candidates, and how hard to search in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from sentence_transformers_mirror.search.faiss_runtime import first_line, load_faiss
from sentence_transformers_mirror.search.vectors import Near

RECALL_AT = 10  # hits that recall is measured for


@dataclass(frozen=True)
class Structure:
    """A FAISS index over the first rows, and how hard to search in it. Never changed, so threads can share it.

    Args:
        index: An index of FAISS, by inner product.
        rows: The row of each number in it, int32 or int64, a permutation of the first rows: those that recall was
            measured on were added last, so that it was measured without them. At the end stands -1, which is "none"
            in FAISS and stays it.
        effort: ``nprobe`` of an inverted file, ``efSearch`` of a graph; anything else ignores it.
        limit: Largest effort that makes a difference.
        depth: Candidates per wanted hit, which are rescored from the vectors.
    """

    index: Any
    rows: np.ndarray
    effort: int
    limit: int
    depth: int

    def candidates(self, queries: np.ndarray, count: int, allowed: np.ndarray | None, effort: int) -> Near:
        """Its scores and rows, shape (queries, candidates), best first; the row is -1 where it has none."""
        if allowed is not None:
            selector = load_faiss().IDSelectorBitmap(np.packbits(allowed[self.order], bitorder="little"))
            parameters = parameters_for(self.index, effort, {"sel": selector})
        else:
            parameters = self._usual if effort == self.effort else parameters_for(self.index, effort, {})
        # Never fewer than recall was measured with: the width of a graph search is at least the number of hits.
        count = min(max(count, RECALL_AT) * self.depth, len(self.order))
        scores, numbers = self.index.search(queries, count, params=parameters)
        return scores, self.rows[numbers].astype(np.int64)

    @cached_property
    def whole(self) -> bool:
        """Whether it keeps the vectors as they are, so that its scores are those of the vectors."""
        faiss = load_faiss()
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexHNSW):
            index = faiss.downcast_index(index.storage)
        return isinstance(index, (faiss.IndexIVFFlat, faiss.IndexFlat))

    @cached_property
    def order(self) -> np.ndarray:
        """The row of each number in it."""
        return self.rows[:-1]

    @cached_property
    def _usual(self) -> Any:
        """Parameters of a search without a filter, made once: that takes as long as a part of a small search."""
        return parameters_for(self.index, self.effort, {})

    def write(self, stream: BinaryIO) -> None:
        faiss = load_faiss()
        faiss.write_index(self.index, faiss.PyCallbackIOWriter(stream.write))


def read_structure(
    content: np.ndarray, dimension: int, covered: int, held_out: list[int], effort: int, depth: int
) -> Structure:
    """A structure from the bytes that ``write`` wrote, after their checksum was found to be right.

    Raises:
        ValueError: If FAISS cannot read them, or they are another structure than the manifest says.
    """
    faiss = load_faiss()
    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(_Stream(content).read))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read its structure: {first_line(error)}") from error
    if (index.ntotal, index.d, index.metric_type) != (covered, dimension, faiss.METRIC_INNER_PRODUCT):
        raise ValueError("The FAISS structure is one of other vectors.")
    return Structure(index, rows_without(covered, np.array(held_out, np.int64)), effort, limit_of(index), depth)


class _Stream:
    """Reads from an array without a copy of the whole of it."""

    def __init__(self, content: np.ndarray) -> None:
        self._content, self._position = content, 0

    def read(self, size: int) -> bytes:
        taken = self._content[self._position : self._position + size].tobytes()
        self._position += len(taken)
        return taken


def rows_without(rows: int, held_out: np.ndarray) -> np.ndarray:
    """All rows but some, then these, and -1; in 4 bytes a row while they suffice, and 9 while it is made."""
    found = np.arange(rows + 1, dtype=np.int32 if rows < 2**31 else np.int64)
    kept = np.delete(found[:-1], held_out)
    found[: len(kept)], found[len(kept) : -1], found[-1] = kept, held_out, -1
    return found


def limit_of(index: Any) -> int:
    inner = _inner(index)
    if hasattr(inner, "nprobe"):
        return inner.nlist
    return 2_048 if hasattr(inner, "hnsw") else 1


def parameters_for(index: Any, effort: int, options: dict[str, Any]) -> Any:
    """Search parameters for one call: setting them on the index itself would disturb other threads."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = parameters_for(index.index, effort, options)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = parameters_for(index.base_index, effort, options)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort, **options)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, **options)
    return faiss.SearchParameters(**options) if options else None


def _inner(index: Any) -> Any:
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _inner(index.index)
    return _inner(index.base_index) if isinstance(index, faiss.IndexRefine) else index
