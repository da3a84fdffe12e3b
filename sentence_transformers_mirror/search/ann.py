"""Everything that touches FAISS.

The vectors are the truth and a FAISS structure is a cache over them: it proposes candidates, and where it keeps them
in fewer bits, the scores that are returned are computed from the vectors. Without a structure the vectors are scanned
where they lie, without a copy.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from sentence_transformers_mirror.search.segments import Vectors

logger = logging.getLogger(__name__)

Found = tuple[np.ndarray, np.ndarray]  # scores and rows, both of shape (queries, hits)

# FAISS and numpy add in different orders, so their float32 inner products of unit vectors differ by about 1e-6. Rows
# that score within this margin of the last hit may be ties of it.
_MARGIN = 1e-5
# Among so many allowed rows, a scan of them (a few milliseconds) is preferred to asking a structure harder.
_SCANNED = 20_000
# No structure is made over fewer rows: a scan of them takes well under a millisecond.
_FEWEST = 2_000
_SAMPLE = 400  # rows that recall is measured on
_RECALL_AT = 10
_ADDED = 65_536  # rows that FAISS is given at a time
_BLOCK = 8_192  # rows that are rescored at a time, to stay in the processor's caches


@dataclass(frozen=True)
class Choice:
    """What a user asks of a structure.

    Args:
        kind: ``auto``, ``flat``, ``hnsw``, ``ivf-flat``, ``ivf-sq8``, ``ivf-pq`` or a factory string of FAISS.
        recall: Recall@10 that an approximate structure is tuned to, in (0, 1).
        max_latency: Seconds that a scan may take for one query before ``auto`` makes a structure.
        max_memory: Bytes of vectors in a structure before ``auto`` quantises them.
    """

    kind: str = "auto"
    recall: float = 0.95
    max_latency: float = 0.02
    max_memory: int = 2**32

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str):
            raise TypeError(f"kind must be a string such as 'auto' or 'hnsw', not {self.kind!r:.60}.")
        if not 0 < self.recall < 1:
            raise ValueError(f"recall is a share of hits and must be between 0 and 1, not {self.recall}.")
        if self.max_latency < 0 or self.max_memory < 0:
            raise ValueError("max_latency (seconds) and max_memory (bytes) must not be negative.")


@dataclass(frozen=True)
class Structure:
    """A FAISS index over the first rows, and how hard to search in it. Never changed, so threads can share it.

    Args:
        index: An index of FAISS, by inner product.
        order: The row of each number in it, int64, a permutation of the first rows: those that recall was measured on
            were added last, so that it was measured without them.
        effort: ``nprobe`` of an inverted file, ``efSearch`` of a graph; anything else ignores it.
        limit: Largest effort that makes a difference.
        depth: Candidates per wanted hit, which are rescored from the vectors.
    """

    index: Any
    order: np.ndarray
    effort: int
    limit: int
    depth: int

    def candidates(self, queries: np.ndarray, count: int, allowed: np.ndarray | None, effort: int) -> Found:
        """Its scores and rows, shape (queries, candidates), best first; the row is -1 where it has none."""
        if allowed is not None:
            selector = _faiss().IDSelectorBitmap(np.packbits(allowed[self.order], bitorder="little"))
            parameters = _parameters(self.index, effort, {"sel": selector})
        else:
            parameters = self._usual if effort == self.effort else _parameters(self.index, effort, {})
        # Never fewer than recall was measured with: the width of a graph search is at least the number of hits.
        count = min(max(count, _RECALL_AT) * self.depth, len(self.order))
        scores, numbers = self.index.search(queries, count, params=parameters)
        return scores, self._rows[numbers]

    @cached_property
    def whole(self) -> bool:
        """Whether it keeps the vectors as they are, so that its scores are those of the vectors."""
        faiss = _faiss()
        index = faiss.downcast_index(self.index)
        if isinstance(index, faiss.IndexHNSW):
            index = faiss.downcast_index(index.storage)
        return isinstance(index, (faiss.IndexIVFFlat, faiss.IndexFlat))

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.append(self.order, -1)  # so that "none", which is -1 in FAISS, stays -1

    @cached_property
    def _usual(self) -> Any:
        """Parameters of a search without a filter, made once: that takes as long as a part of a small search."""
        return _parameters(self.index, self.effort, {})

    def write(self, stream: BinaryIO) -> None:
        faiss = _faiss()
        faiss.write_index(self.index, faiss.PyCallbackIOWriter(stream.write))


def read_structure(
    content: np.ndarray, dimension: int, covered: int, held_out: list[int], effort: int, depth: int
) -> Structure:
    """A structure from the bytes that ``write`` wrote, after their checksum was found to be right.

    Raises:
        ValueError: If FAISS cannot read them, or they are another structure than the manifest says.
    """
    faiss = _faiss()
    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(_Stream(content).read))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot read its structure: {_first_line(error)}") from error
    if (index.ntotal, index.d, index.metric_type) != (covered, dimension, faiss.METRIC_INNER_PRODUCT):
        raise ValueError("The FAISS structure is one of other vectors.")
    return Structure(index, _order(covered, np.array(held_out, np.int64)), effort, _limit(index), depth)


class _Stream:
    """Reads from an array without a copy of the whole of it."""

    def __init__(self, content: np.ndarray) -> None:
        self._content, self._position = content, 0

    def read(self, size: int) -> bytes:
        taken = self._content[self._position : self._position + size].tobytes()
        self._position += len(taken)
        return taken


def search(
    vectors: Vectors, structure: Structure | None, queries: np.ndarray, top_k: int, allowed: np.ndarray | None = None
) -> Found:
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
        scores, found = _exact(Vectors([vectors.take(rows)]), queries, top_k, None)
        return scores, rows[found]
    if structure is None:
        return _exact(vectors, queries, top_k, allowed)
    return _approximate(vectors, structure, queries, top_k, allowed, size)


def _exact(vectors: Vectors, queries: np.ndarray, top_k: int, allowed: np.ndarray | None) -> Found:
    # One row more than wanted shows whether the last hit has ties that were left out.
    coarse, rows = _scan(vectors, queries, top_k + 1, allowed)
    scores, best = _rescored(vectors, queries, rows, top_k)
    if rows.shape[1] > top_k:
        floor = coarse[:, top_k - 1] - _MARGIN
        for number in np.flatnonzero(coarse[:, top_k] >= floor):
            near = np.concatenate([part @ queries[number] for part in vectors.parts]) >= floor[number]
            ties = np.flatnonzero(near if allowed is None else near & allowed)
            scores[number], best[number] = _rescored(vectors, queries[number : number + 1], ties[None], top_k)
    return scores, best


def _scan(vectors: Vectors, queries: np.ndarray, count: int, allowed: np.ndarray | None, start: int = 0) -> Found:
    """Scores and rows, shape (queries, at most count), of a scan of all rows from start on."""
    faiss = _faiss()
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


def _rescored(vectors: Vectors, queries: np.ndarray, rows: np.ndarray, top_k: int) -> Found:
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


def _approximate(
    vectors: Vectors, structure: Structure, queries: np.ndarray, top_k: int, allowed: np.ndarray | None, size: int
) -> Found:
    # A structure looks at so many rows, whether they are allowed or not: the fewer are, the more it has to look at.
    effort = min(math.ceil(structure.effort * len(vectors) / size), structure.limit)
    scores = rows = None
    pending = np.arange(len(queries))
    for _ in range(4):
        asked = queries if scores is None else queries[pending]
        try:
            coarse, near = structure.candidates(asked, top_k, allowed, effort)
        except RuntimeError:  # this structure takes no selector
            break
        if len(structure.order) < len(vectors):
            near = np.concatenate([near, _scan(vectors, asked, top_k, allowed, len(structure.order))[1]], axis=1)
            coarse = None
        if scores is None:
            # Nearly always all is there at once. In Python: the first call of a numpy function after FAISS has swept
            # the caches takes longer than a loop over ten numbers.
            if near.shape[1] >= top_k and not any(-1 in line for line in near.tolist()):
                if coarse is None or not structure.whole:
                    return _rescored(vectors, queries, near, top_k)
                for number, line in enumerate(coarse.tolist()):
                    # Near ties may be ties: FAISS need not add up equal rows in the same order.
                    if any(better - worse < _MARGIN for better, worse in itertools.pairwise(line)):
                        one = slice(number, number + 1)
                        coarse[one], near[one] = _rescored(vectors, queries[one], near[one], near.shape[1])
                return coarse[:, :top_k], near[:, :top_k]
            scores, rows = np.empty((len(queries), top_k), np.float32), np.empty((len(queries), top_k), np.int64)
        enough = np.count_nonzero(near >= 0, axis=1) >= top_k
        if enough.any():
            done = pending[enough]
            scores[done], rows[done] = _rescored(vectors, queries[done], near[enough], top_k)
            pending = pending[~enough]
        if not len(pending) or effort >= structure.limit:
            break
        effort = min(2 * effort, structure.limit)
    if scores is None:
        return _exact(vectors, queries, top_k, allowed)
    if len(pending):
        scores[pending], rows[pending] = _exact(vectors, queries[pending], top_k, allowed)
    return scores, rows


def choose(
    vectors: Vectors, choice: Choice, alive: np.ndarray | None = None
) -> tuple[Structure | None, dict[str, Any]]:
    """Build the structure that a user asked for, or measure whether one is needed.

    Args:
        vectors: Unit vectors, at least one.
        choice: What is wanted.
        alive: The rows that can be found, shape (rows,), bool; None is all.

    Returns:
        The structure, None for a scan; and a report in numbers, strings and None: ``kind``, ``asked``, ``reason``,
        ``rows``, ``seconds``, ``latency`` of a scan for one query in seconds (``auto`` only) and for a structure
        ``factory``, ``effort``, ``depth``, ``recall`` (mean), ``recall_bound`` (lower end of its one-sided 95%
        interval), ``sample`` (queries it was measured on).

    Raises:
        ValueError: If FAISS does not know the kind, or cannot train it on so few rows.
    """
    start = time.perf_counter()
    dimension = vectors.parts[0].shape[1]
    kind, latency = choice.kind, None
    if kind == "auto":
        kind, latency, reason = _automatic(vectors, choice)
    else:
        reason = "asked for"
    factory = _factory(kind, len(vectors), dimension)
    report: dict[str, Any] = {"kind": kind, "asked": choice.kind, "reason": reason, "rows": len(vectors)}
    if latency is not None:
        report["latency"] = latency
    structure = None
    if factory is not None:
        empty = _empty(factory, dimension)
        if len(vectors) < _FEWEST:
            report["reason"] += f"; below {_FEWEST:,} rows a scan is as fast, and exact"
        else:
            rows = np.arange(len(vectors)) if alive is None else np.flatnonzero(alive)
            held_out = np.sort(np.random.default_rng(1).permutation(rows)[:_SAMPLE])
            order = _order(len(vectors), held_out)
            _fill(empty, factory, vectors, order[: -len(held_out)])
            # Rescoring repairs what quantising breaks, if it is given enough candidates.
            depth = {"hnsw": 1, "ivf-flat": 1, "ivf-sq8": 2}.get(kind, 10)
            structure, recall = _tuned(Structure(empty, order, 1, _limit(empty), depth), vectors, choice.recall, alive)
            try:
                empty.add(vectors.take(held_out))
            except RuntimeError:  # a structure that is made in one go
                structure = replace(structure, index=_empty(factory, dimension))
                _fill(structure.index, factory, vectors, order)
            report |= {"factory": factory, "effort": structure.effort, "depth": structure.depth, **recall}
            if recall["recall_bound"] < choice.recall:
                logger.warning(
                    f"A {kind} structure reaches a recall of {recall['recall_bound']:.3f} here and not "
                    f"{choice.recall}: choose another kind, such as 'flat', if that is too little."
                )
    report["seconds"] = time.perf_counter() - start
    return structure, report


def _automatic(vectors: Vectors, choice: Choice) -> tuple[str, float, str]:
    query = vectors.take(np.array([0]))
    _scan(vectors, query, _RECALL_AT, None)  # reads mapped files
    times = []
    for _ in range(5):
        start = time.perf_counter()
        _scan(vectors, query, _RECALL_AT, None)
        times.append(time.perf_counter() - start)
    latency = statistics.median(times)
    measured = f"a scan takes {1e3 * latency:.2f} ms for one query (median of {len(times)})"
    if latency <= choice.max_latency:
        return "flat", latency, f"{measured}, which is within max_latency of {1e3 * choice.max_latency:g} ms"
    bytes_needed = 4 * len(vectors) * vectors.parts[0].shape[1]
    if bytes_needed <= choice.max_memory:
        return "ivf-flat", latency, f"{measured}, over max_latency of {1e3 * choice.max_latency:g} ms"
    return (
        "ivf-sq8",
        latency,
        f"{measured}, over max_latency of {1e3 * choice.max_latency:g} ms, and the vectors take "
        f"{bytes_needed / 2**20:,.0f} MiB, over max_memory of {choice.max_memory / 2**20:,.0f} MiB",
    )


def _factory(kind: str, rows: int, dimension: int) -> str | None:
    # FAISS wants 39 training rows a list; more lists than that make empty ones.
    lists = max(1, min(round(4 * math.sqrt(rows)), (rows - _SAMPLE) // 39))
    if kind == "flat":
        return None
    if kind == "hnsw":
        return "HNSW32,Flat"
    if kind == "ivf-flat":
        return f"IVF{lists},Flat"
    if kind == "ivf-sq8":
        return f"IVF{lists},SQ8"
    if kind == "ivf-pq":
        pieces = max(piece for piece in range(1, max(dimension // 8, 1) + 1) if dimension % piece == 0)
        return f"IVF{lists},PQ{pieces}np"  # np: without polysemous training, which is slow and for Hamming distances
    return kind


def _empty(factory: str, dimension: int) -> Any:
    faiss = _faiss()
    try:
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(
            f"FAISS makes no {factory!r} for {dimension} dimensions; kinds are auto, flat, hnsw, ivf-flat, ivf-sq8, "
            f"ivf-pq and the factory strings of FAISS ({_first_line(error)})."
        ) from error


def check_factory(kind: str) -> None:
    """Refuse what is neither a kind nor a factory string of FAISS.

    Raises:
        ValueError: If FAISS cannot parse it; whether it suits the vectors is not looked at.
    """
    try:
        _faiss().index_factory(960, kind, _faiss().METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        if "parse" in str(error):
            raise ValueError(
                f"FAISS makes no {kind!r}; kinds are auto, flat, hnsw, ivf-flat, ivf-sq8, ivf-pq and the factory "
                f"strings of FAISS ({_first_line(error)})."
            ) from None


def _order(rows: int, held_out: np.ndarray) -> np.ndarray:
    return np.concatenate([np.delete(np.arange(rows), held_out), held_out])


def _fill(index: Any, factory: str, vectors: Vectors, order: np.ndarray) -> None:
    try:
        if not index.is_trained:
            inverted = _faiss().try_extract_index_ivf(index)
            wanted = max(100_000, 40 * inverted.nlist if inverted else 0)
            rows = np.random.default_rng(0).permutation(order)[:wanted]
            index.train(vectors.take(np.sort(rows)))
        for start in range(0, len(order), _ADDED):
            index.add(vectors.take(order[start : start + _ADDED]))
    except RuntimeError as error:
        raise ValueError(
            f"FAISS cannot build {factory!r} over {len(vectors):,} rows; choose another kind ({_first_line(error)})."
        ) from error


def _tuned(
    structure: Structure, vectors: Vectors, target: float, alive: np.ndarray | None
) -> tuple[Structure, dict[str, Any]]:
    """Double the effort, and then the depth, until the lower bound of recall reaches its target or they do not help.

    The queries are the rows that are not in the structure yet, and what they should find is among those that are.
    """
    held_out = structure.order[structure.index.ntotal :]
    others = np.ones(len(vectors), bool) if alive is None else alive.copy()
    others[held_out] = False
    queries = vectors.take(held_out)
    truth = _exact(vectors, queries, min(_RECALL_AT, int(others.sum())), others)[0]
    best: tuple[Structure, dict[str, Any]] | None = None
    for depth in (structure.depth, 4 * structure.depth):
        effort, before = 1, 0.0
        while True:
            trial = replace(structure, effort=effort, depth=depth)
            near = trial.candidates(queries, truth.shape[1], alive, effort)[1]
            scores = _rescored(vectors, queries, near, truth.shape[1])[0]
            # What scores as much as the last true hit is as good as it: equal texts tie.
            mean = float((scores >= truth[:, -1:] - _MARGIN).mean())
            bound = wilson_bound(mean, len(held_out))
            if best is None or bound > best[1]["recall_bound"]:
                best = trial, {"recall": mean, "recall_bound": bound, "sample": len(held_out)}
            if bound >= target:
                return best
            if effort >= structure.limit or (mean > 0.5 and mean - before < 1e-3):
                break
            effort, before = min(2 * effort, structure.limit), mean
    return best


def wilson_bound(mean: float, sample: int, z: float = 1.645) -> float:
    """Lower end of Wilson's one-sided 95% interval of a mean of values in [0, 1].

    Wilson's interval is one of yes-or-no trials; values between have at most their variance, so it holds for these.
    """
    centre = mean + z * z / (2 * sample)
    spread = z * math.sqrt(mean * (1 - mean) / sample + z * z / (4 * sample * sample))
    return max(0.0, (centre - spread) / (1 + z * z / sample))


def _limit(index: Any) -> int:
    inner = _inner(index)
    if hasattr(inner, "nprobe"):
        return inner.nlist
    return 2_048 if hasattr(inner, "hnsw") else 1


def _parameters(index: Any, effort: int, options: dict[str, Any]) -> Any:
    """Search parameters for one call: setting them on the index itself would disturb other threads."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(index.index, effort, options)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(index.base_index, effort, options)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort, **options)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort, **options)
    return faiss.SearchParameters(**options) if options else None


def _inner(index: Any) -> Any:
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _inner(index.index)
    return _inner(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def _first_line(error: Exception) -> str:
    """Of a message of FAISS, without the place in its source."""
    return str(error).strip().splitlines()[0].split(": ", 1)[-1].strip()[:120]


def _one_thread() -> None:
    """In a forked process: the threads of OpenMP did not come along, and FAISS and torch would wait for them for ever.

    With one thread they start none. A worker of a server has its share of the processor in this way, too.
    """
    for name, call in (("faiss", "omp_set_num_threads"), ("torch", "set_num_threads")):
        if name in sys.modules:
            getattr(sys.modules[name], call)(1)


@cache
def _survive_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)


def _faiss() -> ModuleType:
    import faiss

    _survive_forks()
    if sys.platform == "darwin":
        # The wheels of torch and of faiss each bring an OpenMP runtime there, and the two crash the process once
        # both start threads (faiss-wheels#73, pytorch#149201).
        faiss.omp_set_num_threads(1)
    return faiss
