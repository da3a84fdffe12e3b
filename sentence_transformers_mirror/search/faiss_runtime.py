"""FAISS, which is loaded when it is first needed and survives a fork."""

from __future__ import annotations

import os
import sys
from functools import cache
from types import ModuleType


def load_faiss() -> ModuleType:
    import faiss

    _survive_forks()
    if sys.platform == "darwin":
        # The wheels of torch and of faiss each bring an OpenMP runtime there, and the two crash the process once
        # both start threads (faiss-wheels#73, pytorch#149201).
        faiss.omp_set_num_threads(1)
    return faiss


def first_line(error: Exception) -> str:
    """Of a message of FAISS, without the place in its source."""
    return str(error).strip().splitlines()[0].split(": ", 1)[-1].strip()[:120]


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
