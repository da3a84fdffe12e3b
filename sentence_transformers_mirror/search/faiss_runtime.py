"""FAISS, which is loaded when it is first needed and survives a fork."""

from __future__ import annotations

import logging
import os
import re
import sys
from functools import cache
from types import ModuleType
from typing import Any

# Where an index of FAISS keeps the parts that are trained, and what they are trained with.
_PARTS = ("index", "base_index", "refine_index", "quantizer", "storage", "pq", "rq", "prq", "cp")


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
    asserted = re.fullmatch(r"Error: '(.*)' failed:?(.*)", line)
    if asserted:
        line = asserted[2].strip() or f"it needs {asserted[1]}"
    return line[:120]


def trained_on_few(index: Any) -> Any:
    """An index that takes as few rows to be trained on as there are.

    FAISS warns on standard error of fewer than 39 a centroid, and what comes of it is measured here.
    """
    faiss = load_faiss()
    rotations = []

    def visit(part: Any) -> None:
        if isinstance(part, faiss.Index):
            part = faiss.downcast_index(part)
        if isinstance(part, faiss.ClusteringParameters):
            part.min_points_per_centroid = 1
        if isinstance(part, faiss.IndexPreTransform):
            for number in range(part.chain.size()):
                visit(faiss.downcast_VectorTransform(part.chain.at(number)))
        if isinstance(part, faiss.ProductAdditiveQuantizer):
            for number in range(part.nsplits):
                visit(faiss.downcast_AdditiveQuantizer(part.subquantizer(number)))
        if isinstance(part, faiss.OPQMatrix) and part.pq is None:
            part.pq = faiss.ProductQuantizer(part.d_out, part.M, 8)  # which it would make itself
            rotations.append(part.pq)
        for name in _PARTS:
            if (inner := getattr(part, name, None)) is not None:
                visit(inner)

    visit(index)
    index.referenced_objects = rotations  # FAISS points at them and does not own them
    return index


@cache
def _survive_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _one_thread() -> None:
    """In a forked process: the threads of OpenMP did not come along, and FAISS and torch would wait for them for ever.

    With one thread they start none. A worker of a server has its share of the processor in this way, too.
    """
    for name, call in (("faiss", "omp_set_num_threads"), ("torch", "set_num_threads")):
        if name in sys.modules:
            getattr(sys.modules[name], call)(1)
