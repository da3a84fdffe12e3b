"""An index that is read: what is in it, and what it finds by meaning, by words, by both, with a second look."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search import filters
from sentence_transformers_mirror.search import fusion as fuse
from sentence_transformers_mirror.search.calibration import RATE, calibrate
from sentence_transformers_mirror.search.entries import check_text
from sentence_transformers_mirror.search.fusion import Fusion, Mode
from sentence_transformers_mirror.search.hits import Hit, Judge, judge, reranked
from sentence_transformers_mirror.search.saving import KeptStructure
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.state import State
from sentence_transformers_mirror.search.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_ASKED = {"given": "a given query and a text", "parts": "a part of a text and another text", "texts": "two texts"}


class Asked:
    """What readers do, at the same time as writers if need be: one frozen state is replaced whole."""

    def __init__(self, state: State) -> None:
        """Use ``build``, ``from_vectors``, ``from_shards``, ``load`` or ``open``."""
        # Taken once by whoever reads it, and replaced once by whoever changes it.
        self._state = state
        # The folders it lies in, each with the tags that a save of this index may have left there.
        self._homes: dict[str, tuple[str, ...]] = {}
        self._structure_file: KeptStructure | None = None
        self._writing = threading.RLock()
        _indexes.add(self)

    @property
    def _snapshot(self) -> Snapshot:
        return self._state.snapshot

    @property
    def _row_of(self) -> dict[int | str, int]:
        """The row of each id, for who looks at an index from outside; `State.positions` finds them in less memory."""
        state = self._state
        ids = list(state.snapshot.ids())
        return dict(zip(ids, state.positions.find(ids).tolist(), strict=True))

    def __copy__(self) -> Self:
        """An index of its own over the same rows, which never change; the model is shared."""
        copied = type(self)(self._state)
        copied._homes, copied._structure_file = dict(self._homes), self._structure_file
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple:
        raise TypeError("An index is not pickled: save it into a folder, and open that where it is wanted.")

    def __len__(self) -> int:
        """Number of texts."""
        return self._snapshot.count

    def __contains__(self, item: object) -> bool:
        """Whether an id is in the index."""
        item = plain(item)
        return isinstance(item, (int, str)) and not isinstance(item, bool) and item in self._state.positions

    def __iter__(self) -> Iterator[int | str]:
        """The ids, in the order in which the texts came."""
        return self._snapshot.ids()

    def __getitem__(self, item: int | str) -> tuple[str, dict[str, Any]]:
        """Text and metadata of an id.

        Raises:
            KeyError: If it is not in the index.
        """
        state = self._state
        segment, local = state.snapshot.locate(state.positions[plain(item)])
        return segment.text(local), segment.metadata(local)

    def facts(self) -> dict[str, Any]:
        """What there is to know about the index, as numbers, strings and None; `describe` puts it into words."""
        state = self._state
        snapshot = state.snapshot
        return {
            "texts": snapshot.count,
            "removed": len(snapshot.removed) - snapshot.size,
            "segments": len(snapshot.segments),
            "dimension": state.dimension,
            "vector_bytes": 4 * len(snapshot.removed) * state.dimension,
            **asdict(state.model),
            "choice": asdict(state.choice),
            "structure": {} if snapshot.report is None else snapshot.report.as_dict(),
            "calibration": None if snapshot.calibration is None else snapshot.calibration.as_dict(),
            "language": snapshot.language,
            "passages": None if snapshot.passages is None else {"tokens": snapshot.passages, "rows": snapshot.size},
        }

    def describe(self) -> str:
        """What the index holds, how it searches and why, and what was measured, in a few lines."""
        state = self._state
        snapshot, report, calibration = state.snapshot, state.snapshot.report, state.snapshot.calibration
        rows = len(snapshot.removed)
        lines = [
            f"{snapshot.count:,} texts, {state.dimension} dimensions, {4 * rows * state.dimension / 2**20:,.1f} MiB "
            f"of vectors, {rows - snapshot.size:,} removed rows to compact",
            f"model: {state.model.model or 'not named'}, fingerprint {(state.model.fingerprint or 'unknown')[:16]}",
        ]
        if report is not None:
            lines.append(f"kind: {report.kind} (asked for {report.asked}): {report.reason}")
            if report.recall is None:
                lines.append("recall: 1, the search is exact")
            else:
                lines += [
                    f"recall@10: {report.recall:.3f}, at least {report.recall_bound:.3f} (one-sided 95% interval, "
                    f"{report.sample} texts of the index as queries, their own hit not counted; wanted "
                    f"{state.choice.recall:g})",
                    f"structure: {report.factory}, effort {report.effort}, {report.depth} candidates a hit, "
                    f"built over {report.rows:,} rows in {report.seconds:.1f} s",
                ]
        stemmed = f"stemmed in {snapshot.language}" if snapshot.language else "not stemmed, no language was given"
        lines.append(f"words: {stemmed}")
        if snapshot.passages is not None:
            lines.append(f"passages: {snapshot.size:,}, of at most {snapshot.passages} tokens")
        if calibration is None:
            lines.append("threshold: not calibrated")
        else:
            lines.append(
                f"threshold: {calibration.threshold:.3f} is exceeded by {calibration.false_positive_rate:g} of random "
                f"pairs of {_ASKED[calibration.queries or 'texts']} ({calibration.pairs:,} pairs, when there were "
                f"{calibration.texts:,} texts)"
            )
        return "\n".join(lines)

    # A string is a sequence of strings, too; a type checker takes the first that fits.
    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        top_k: int = 10,
        threshold: float | Literal["auto"] | None = None,
        where: filters.Where | None = None,
        *,
        mode: Mode = ...,
        weight: float | None = ...,
        fusion: Fusion = ...,
        rerank: CrossEncoder | Judge | str | Path | None = ...,
        candidates: int = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        query: Sequence[str] | np.ndarray,
        top_k: int = 10,
        threshold: float | Literal["auto"] | None = None,
        where: filters.Where | None = None,
        *,
        mode: Mode = ...,
        weight: float | None = ...,
        fusion: Fusion = ...,
        rerank: CrossEncoder | Judge | str | Path | None = ...,
        candidates: int = ...,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        query: str | Sequence[str] | np.ndarray,
        top_k: int = 10,
        threshold: float | Literal["auto"] | None = None,
        where: filters.Where | None = None,
        *,
        mode: Mode = "meaning",
        weight: float | None = None,
        fusion: Fusion = "convex",
        rerank: CrossEncoder | Judge | str | Path | None = None,
        candidates: int = 50,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the texts nearest to a query, which is embedded with the model's query prompt if it has one.

        Args:
            query: A query, or a list of them; or the vector of a query, shape (dimension,), or of several, shape
                (queries, dimension).
            top_k: Hits per query, at least 1; more than there are texts gives all of them. A text is one hit, by its
                best passage, where texts are cut.
            threshold: Leave out hits with a lower cosine, -1 to 1, by meaning and by both; ``auto`` is what
                ``calibrate`` says. By words, leave out hits with a lower BM25, from 0.
            where: Conditions on metadata that a hit must meet, such as ``{"language": "en", "year": [2024, 2025]}``
                or ``{"year": lambda year: year > 2020}``.
            mode: By ``meaning``, the cosine similarity of embeddings; by ``words``, BM25, which needs no model and
                finds only texts with a word of the query; or by ``both``.
            weight: The weight of meaning in ``both``, from 0 to 1; by default 0.3, and 0.5 with ``rrf``.
            fusion: How ``both`` makes one order of two: ``convex`` adds the scores, each scaled so that 1 is the best
                and 0 a text at random; ``rrf`` adds reciprocal ranks.
            rerank: Who takes a second look: a ``CrossEncoder``, its name or path, or a function that takes a list of
                pairs (query, text) and gives a number for each, higher for better. A name is loaded anew for each
                call; for several calls pass the model. It sees the best passage where texts are cut, and its number
                is the ``score`` of a hit.
            candidates: Hits that are looked at again, at least 1; never fewer than ``top_k``.

        Returns:
            For one query its hits, best first, equal scores in the order in which the texts came; for several a list
            of these.

        Raises:
            TypeError: If a query is no string, or an argument of another type.
            ValueError: If a query is blank, has no word in a search by words, or has a zero or non-finite vector or
                one of another dimension, another argument is out of its range, no entry has a key of ``where``, the
                index has no model for a query in words, or the model was changed since it built the index.
        """
        top_k = whole_number(top_k, "top_k is the number of hits wanted and", 1)
        weight = fuse.check(mode, weight, fusion)
        candidates = whole_number(candidates, "candidates", 1)
        state = self._state
        snapshot = state.snapshot
        is_vector = isinstance(query, np.ndarray) and query.dtype.kind in "fiu"
        if is_vector and (mode != "meaning" or rerank is not None):
            what = f"A search by {mode}" if rerank is None else "A second look"
            raise TypeError(f"{what} needs a query in words, not a vector: pass a string.")
        queries: Any = query if is_vector else _strings(query, "query")
        single = queries.ndim == 1 if is_vector else isinstance(query, str)
        least = fuse.check_threshold(mode, threshold)
        judged = None if rerank is None else judge(rerank)  # complains before anything is embedded
        vectors: Any = None if mode == "words" else _vectors(state, queries)
        if least == "auto":  # only now: a query of no use changes nothing
            calibration = snapshot.calibration
            least = self._calibrated(state, RATE, 0, wait=False) if calibration is None else calibration.threshold
        allowed = snapshot.alive if where is None else filters.mask(snapshot, where)

        def ask(count: int) -> list[list[Hit]]:
            if mode == "meaning":
                return fuse.by_meaning(snapshot, vectors, count, allowed)
            if mode == "words":
                return fuse.by_words(snapshot, queries, count, allowed)
            return fuse.by_both(snapshot, vectors, queries, count, allowed, weight, fusion)

        wanted = top_k if rerank is None else max(top_k, candidates)
        found = ask(wanted) if snapshot.owners is None else fuse.by_text(ask, snapshot.owners, wanted)
        if least is not None:
            told = attrgetter("meaning" if mode == "both" else "score")
            whole, found = found, [[hit for hit in hits if told(hit) >= least] for hits in found]
            if single and whole[0] and not found[0]:
                logger.info(f"No text scores {least:.3f} or more; the best has {max(map(told, whole[0])):.3f}.")
        if judged is not None:
            found = [reranked(judged, text, hits)[:top_k] for text, hits in zip(queries, found, strict=True)]
        return found[0] if single else found

    def calibrate(
        self, false_positive_rate: float = RATE, *, queries: Sequence[str] | None = None, seed: int = 0
    ) -> float:
        """Find the score above which a query and a text of this corpus are related, and keep it for ``"auto"``.

        It is the score that a query and a text drawn at random exceed with this probability, if they share no word
        that tells something. No labels are needed. A search compares a query with all texts: among a million, a rate
        of 0.01 still lets ten thousand unrelated texts pass; ``top_k`` then keeps the best.

        Args:
            false_positive_rate: Share of unrelated texts that may pass, in (0, 1).
            queries: Examples of what is asked. By default parts of up to 300 texts of the index, 5 words in a row,
                are asked instead; in an index without a model its texts, which sets the bar higher.
            seed: Seed for the sample of up to 2,000 texts that they are compared with.

        Returns:
            The score, -1 to 1.

        Raises:
            TypeError: If a query is no string.
            ValueError: If the rate is not in (0, 1), the index has too few texts to see a rate so small, a query is
                blank, or there is no model to embed the queries.
        """
        state = self._state
        if queries is not None:
            queries = _strings(queries, "queries")
            if not queries:
                raise ValueError("There are no queries: pass some, or leave them out.")
            if state.encoder is None:
                raise ValueError("This index was loaded without a model to embed queries: pass one, or no queries.")
        return self._calibrated(state, false_positive_rate, seed, queries)

    def _calibrated(
        self, state: State, rate: float, seed: int, queries: list[str] | None = None, wait: bool = True
    ) -> float:
        embed = None if state.encoder is None else state.encoder.queries
        calibration = calibrate(state.snapshot, plain(rate), seed, embed, queries)
        if self._writing.acquire(blocking=wait):  # a search does not wait for a change
            try:
                now = self._state
                if now.encoder is state.encoder:
                    self._state = now.over(replace(now.snapshot, calibration=calibration))
            finally:
                self._writing.release()
        return calibration.threshold


_indexes: weakref.WeakSet[Asked] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: the thread that held a lock is not there any more."""
    for index in list(_indexes):
        index._writing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _strings(given: str | Iterable[str], name: str) -> list[str]:
    if isinstance(given, str):
        check_text(given, name)
        return [given]
    if isinstance(given, (bytes, Mapping)) or hasattr(given, "iterrows") or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a string or a list of strings, not one {type(given).__name__}.")
    queries = list(given)
    for position, text in enumerate(queries):
        check_text(text, f"{name}[{position}]")
    return queries


def _vectors(state: State, queries: np.ndarray | list[str]) -> np.ndarray:
    """Unit vectors of queries, or of their vectors, shape (queries, dimension), float32."""
    if isinstance(queries, np.ndarray):
        if queries.ndim not in (1, 2) or queries.shape[-1] != state.dimension:
            raise ValueError(
                f"A query vector must have the {state.dimension} dimensions of the index, not shape {queries.shape}."
            )
        vectors = queries.reshape(-1, state.dimension)
        return unit(vectors, range(len(vectors)))
    if state.encoder is None:
        raise ValueError(
            "This index was loaded without a model to embed queries: pass SearchIndex.load(path, model=...)."
        )
    if not queries:
        return np.empty((0, state.dimension), np.float32)
    vectors = state.encoder.queries(queries)
    state.refuse_others(vectors)
    return vectors
