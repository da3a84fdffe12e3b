"""Which structure suits some vectors, and what it reaches: measured on the vectors themselves."""

from __future__ import annotations

import logging
import math
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.ann import MARGIN, exact, rescored, scan
from sentence_transformers_mirror.search.reports import Report
from sentence_transformers_mirror.search.structure import (
    RECALL_AT,
    Structure,
    first_line,
    load_faiss,
    rows_without,
)
from sentence_transformers_mirror.search.vectors import Vectors

logger = logging.getLogger(__name__)

# No structure is made over fewer rows: a scan of them takes well under a millisecond.
_FEWEST = 2_000
_SAMPLE = 400  # rows that recall is measured on
_ADDED = 65_536  # rows that FAISS is given at a time
# Where an index of FAISS keeps the parts that are trained, and what they are trained with.
_PARTS = ("index", "base_index", "refine_index", "quantizer", "storage", "pq", "rq", "prq", "cp")


@dataclass(frozen=True)
class Choice:
    """What a user asks of a structure."""

    kind: str = "auto"  # or flat, hnsw, ivf-flat, ivf-sq8, ivf-pq, or a factory string of FAISS
    recall: float = 0.95  # recall@10 that an approximate structure is tuned to
    max_latency: float = 0.02  # seconds that a scan may take for one query before ``auto`` makes a structure
    max_memory: float = 2**32  # bytes of vectors in a structure before ``auto`` quantises them

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str):
            raise TypeError(f"kind must be a string such as 'auto' or 'hnsw', not {quoted(self.kind)}.")
        if not 0 < self.recall < 1:
            raise ValueError(f"recall is a share of hits and must be between 0 and 1, not {self.recall}.")
        if self.max_latency < 0 or self.max_memory < 0:
            raise ValueError("max_latency (seconds) and max_memory (bytes) must not be negative.")


def choose(vectors: Vectors, choice: Choice, alive: np.ndarray | None = None) -> tuple[Structure | None, Report]:
    """Build the structure that a user asked for, or measure whether one is needed; None is a scan.

    Raises:
        ValueError: If FAISS does not know the kind, or cannot train it on so few rows.
    """
    start = time.perf_counter()
    kind, latency, reason = choice.kind, None, "asked for"
    if kind == "auto":
        kind, latency, reason = _automatic(vectors, choice)
    report = Report(kind, choice.kind, reason, len(vectors), latency)
    structure, factory = None, _factory(kind, len(vectors), vectors.parts[0].shape[1])
    if factory is not None:
        empty = _empty(factory, vectors)
        if len(vectors) < _FEWEST:
            report = replace(report, reason=f"{reason}; below {_FEWEST:,} rows a scan is as fast, and exact")
        else:
            structure, report = _built(empty, factory, vectors, alive, choice.recall, report)
    return structure, replace(report, seconds=time.perf_counter() - start)


def _built(
    empty: Any, factory: str, vectors: Vectors, alive: np.ndarray | None, target: float, report: Report
) -> tuple[Structure, Report]:
    findable = len(vectors) if alive is None else np.flatnonzero(alive)
    held_out = np.sort(np.random.default_rng(1).permutation(findable)[:_SAMPLE])
    # Rescoring repairs what quantising breaks, if it is given enough candidates.
    depth = {"hnsw": 1, "ivf-flat": 1, "ivf-sq8": 2}.get(report.kind, 10)
    structure = Structure(empty, rows_without(len(vectors), held_out), 1, depth)
    _fill(empty, factory, vectors, structure.order[: -len(held_out)])
    try:
        structure, mean, bound = _tuned(structure, vectors, target, alive)
    except RuntimeError as error:  # it cannot be asked as others can
        raise ValueError(f"FAISS cannot search {factory!r}; choose another kind ({first_line(error)}).") from error
    try:
        empty.add(vectors.take(held_out))
    except RuntimeError:  # a structure that is made in one go
        structure = replace(structure, index=_empty(factory, vectors))
        _fill(structure.index, factory, vectors, structure.order)
    if bound < target:
        logger.warning(
            f"A {report.kind} structure reaches a recall of {bound:.3f} here and not {target}: choose another kind, "
            "such as 'flat', if that is too little."
        )
    report = replace(report, factory=factory, effort=structure.effort, depth=structure.depth)
    return structure, replace(report, recall=mean, recall_bound=bound, sample=len(held_out))


def _automatic(vectors: Vectors, choice: Choice) -> tuple[str, float, str]:
    query = vectors.take(np.array([0]))
    scan(vectors, query, RECALL_AT, None)  # reads mapped files
    times = []
    for _ in range(5):
        start = time.perf_counter()
        scan(vectors, query, RECALL_AT, None)
        times.append(time.perf_counter() - start)
    latency = statistics.median(times)
    measured = f"a scan takes {1e3 * latency:.2f} ms for one query (median of {len(times)})"
    most = f"max_latency of {1e3 * choice.max_latency:g} ms"
    if latency <= choice.max_latency:
        return "flat", latency, f"{measured}, which is within {most}"
    needed = 4 * len(vectors) * vectors.parts[0].shape[1]
    if needed <= choice.max_memory:
        return "ivf-flat", latency, f"{measured}, over {most}"
    memory = f"{needed / 2**20:,.0f} MiB, over max_memory of {choice.max_memory / 2**20:,.0f} MiB"
    return "ivf-sq8", latency, f"{measured}, over {most}, and the vectors take {memory}"


def _factory(kind: str, rows: int, dimension: int) -> str | None:
    # FAISS wants 39 training rows a list; more lists than that make empty ones.
    lists = max(1, min(round(4 * math.sqrt(rows)), (rows - _SAMPLE) // 39))
    pieces = max(piece for piece in range(1, max(dimension // 8, 1) + 1) if dimension % piece == 0)
    factories = {
        "flat": None,
        "hnsw": "HNSW32,Flat",
        "ivf-flat": f"IVF{lists},Flat",
        "ivf-sq8": f"IVF{lists},SQ8",
        "ivf-pq": f"IVF{lists},PQ{pieces}np",  # np: without polysemous training, slow and for Hamming distances
    }
    return factories.get(kind, kind)


def _empty(factory: str, vectors: Vectors) -> Any:
    faiss, dimension = load_faiss(), vectors.parts[0].shape[1]
    try:
        return _trained_on_few(faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT))
    except RuntimeError as error:
        raise _unknown(f"{factory!r} for {dimension} dimensions", error) from error


def _trained_on_few(index: Any) -> Any:
    """An index that takes as few rows to be trained on as there are: what comes of it is measured here, and FAISS
    need not warn of it."""
    faiss = load_faiss()
    rotations = []

    def visit(part: Any) -> None:
        if isinstance(part, faiss.Index):
            part = faiss.downcast_index(part)
        if isinstance(part, faiss.ClusteringParameters):
            part.min_points_per_centroid = 1
        if isinstance(part, faiss.OPQMatrix) and part.pq is None:
            part.pq = faiss.ProductQuantizer(part.d_out, part.M, 8)  # which it would make itself
            rotations.append(part.pq)
        within = [getattr(part, name, None) for name in _PARTS]
        if isinstance(part, faiss.IndexPreTransform):
            within += [faiss.downcast_VectorTransform(part.chain.at(n)) for n in range(part.chain.size())]
        if isinstance(part, faiss.ProductAdditiveQuantizer):
            within += [faiss.downcast_AdditiveQuantizer(part.subquantizer(n)) for n in range(part.nsplits)]
        for inner in within:
            if inner is not None:
                visit(inner)

    visit(index)
    index.referenced_objects = rotations  # FAISS points at them and does not own them
    return index


def check_factory(kind: str) -> None:
    """Refuse what FAISS cannot parse with a ValueError; whether it suits the vectors is not looked at."""
    try:
        load_faiss().index_factory(960, kind, load_faiss().METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        if "parse" in str(error):
            raise _unknown(repr(kind), error) from None


def _unknown(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"FAISS makes no {what}; kinds are auto, flat, hnsw, ivf-flat, ivf-sq8, ivf-pq and the factory strings of "
        f"FAISS ({first_line(error)})."
    )


def _fill(index: Any, factory: str, vectors: Vectors, order: np.ndarray) -> None:
    try:
        if not index.is_trained:
            inverted = load_faiss().try_extract_index_ivf(index)
            wanted = max(100_000, 40 * inverted.nlist if inverted else 0)
            rows = np.sort(np.random.default_rng(0).permutation(order)[:wanted])
            index.train(vectors.take(rows))
        for start in range(0, len(order), _ADDED):
            index.add(vectors.take(order[start : start + _ADDED]))
    except RuntimeError as error:
        raise ValueError(
            f"FAISS cannot build {factory!r} over {len(vectors):,} rows; choose another kind ({first_line(error)})."
        ) from error


def _tuned(
    structure: Structure, vectors: Vectors, target: float, alive: np.ndarray | None
) -> tuple[Structure, float, float]:
    """Double the effort, and then the depth, until the lower bound of recall reaches its target or they do not help.

    The queries are the rows that are not in the structure yet, and what they should find is among those that are.
    """
    held_out = structure.order[structure.index.ntotal :]
    others = np.ones(len(vectors), bool) if alive is None else alive.copy()
    others[held_out] = False
    queries = vectors.take(held_out)
    truth = exact(vectors, queries, min(RECALL_AT, int(others.sum())), others)[0]
    best = structure, 0.0, -1.0  # below the bound of any trial
    for depth in (structure.depth, 4 * structure.depth):
        effort, before = 1, 0.0
        while True:
            trial = replace(structure, effort=effort, depth=depth)
            near = trial.candidates(queries, truth.shape[1], alive)[1]
            scores = rescored(vectors, queries, near, truth.shape[1])[0]
            # What scores as much as the last true hit is as good as it: equal texts tie.
            mean = float((scores >= truth[:, -1:] - MARGIN).mean())
            bound = wilson_bound(mean, len(held_out))
            if bound > best[2]:
                best = trial, mean, bound
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
