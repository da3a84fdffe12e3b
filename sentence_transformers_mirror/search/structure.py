"""An index of FAISS over vectors: a cache that proposes candidates, and how hard to search in it."""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.search.vectors import Near

RECALL_AT = 10  # hits that recall is measured for


@dataclass(frozen=True)
class Structure:
    """A FAISS index over the first rows, and how hard to search in it. Never changed, so threads can share it."""

    index: Any  # by inner product
    # The row of each number in it, int32 or int64, a permutation of the first rows: those that recall was measured on
    # were added last, so that it was measured without them. At the end stands -1, which is "none" in FAISS.
    rows: np.ndarray
    effort: int  # ``nprobe`` of an inverted file, ``efSearch`` of a graph; anything else ignores it
    depth: int  # candidates per wanted hit, which are rescored from the vectors

    def candidates(self, queries: np.ndarray, count: int, allowed: np.ndarray | None) -> Near:
        """Its scores and rows, shape (queries, candidates), best first; the row is -1 where it has none."""
        if allowed is None:
            parameters = self._usual
        else:
            selector = load_faiss().IDSelectorBitmap(np.packbits(allowed[self.order], bitorder="little"))
            parameters = parameters_for(self.index, self.effort, {"sel": selector})
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
    def limit(self) -> int:
        """Largest effort that makes a difference."""
        faiss = load_faiss()
        index = faiss.downcast_index(self.index)
        while isinstance(index, (faiss.IndexPreTransform, faiss.IndexRefine)):
            inner = index.index if isinstance(index, faiss.IndexPreTransform) else index.base_index
            index = faiss.downcast_index(inner)
        if hasattr(index, "nprobe"):
            return index.nlist
        return 2_048 if hasattr(index, "hnsw") else 1

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
    """A structure from the bytes that ``write`` wrote, whose checksum is right; a ValueError if it is another one."""
    faiss = load_faiss()
    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(pa.BufferReader(content).read))  # without a copy of them
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read its structure: {first_line(error)}") from error
    if (index.ntotal, index.d, index.metric_type) != (covered, dimension, faiss.METRIC_INNER_PRODUCT):
        raise ValueError("The FAISS structure is one of other vectors.")
    return Structure(index, rows_without(covered, np.array(held_out, np.int64)), effort, depth)


def rows_without(rows: int, held_out: np.ndarray) -> np.ndarray:
    """All rows but some, then these, and -1; in 4 bytes a row while they suffice, and 9 while it is made."""
    found = np.arange(rows + 1, dtype=np.int32 if rows < 2**31 else np.int64)
    kept = np.delete(found[:-1], held_out)
    found[: len(kept)], found[len(kept) : -1], found[-1] = kept, held_out, -1
    return found


def parameters_for(index: Any, effort: int, options: dict[str, Any]) -> Any:
    """Search parameters for one call: setting them on the index itself would disturb other threads."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=parameters_for(index.index, effort, options))
    if isinstance(index, faiss.IndexRefine):
        inner = parameters_for(index.base_index, effort, options)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort, **options)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, **options)
    return faiss.SearchParameters(**options) if options else None


def load_faiss() -> ModuleType:
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells of each instruction set that it looks for
    import faiss

    _survive_forks()
    if sys.platform == "darwin":
        # The wheels of torch and of faiss each bring an OpenMP runtime there, and the two crash the process once
        # both start threads (faiss-wheels#73, pytorch#149201).
        faiss.omp_set_num_threads(1)
    return faiss


def first_line(error: Exception) -> str:
    """Of a message of FAISS, without the place in its source; of an assertion what it wants."""
    line = str(error).strip().splitlines()[0].split(": ", 1)[-1].strip()
    if asserted := re.fullmatch(r"Error: '(.*)' failed:?(.*)", line):
        line = asserted[2].strip() or f"it needs {asserted[1]}"
    return line[:120]


@cache
def _survive_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    """In a forked process: the threads of OpenMP did not come along, and FAISS and torch would wait for them for ever.
    With one thread they start none."""
    for name, call in (("faiss", "omp_set_num_threads"), ("torch", "set_num_threads")):
        if name in sys.modules:
            getattr(sys.modules[name], call)(1)
