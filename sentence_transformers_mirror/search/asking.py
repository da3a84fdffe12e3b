"""Ask an index: by meaning, by words, by both, with a second look."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search import ann, filters
from sentence_transformers_mirror.search import fusion as fuse
from sentence_transformers_mirror.search.base import Base
from sentence_transformers_mirror.search.calibration import RATE, calibrate
from sentence_transformers_mirror.search.entries import check_text
from sentence_transformers_mirror.search.fusion import Fusion, Mode
from sentence_transformers_mirror.search.hits import Hit
from sentence_transformers_mirror.search.passages import documents
from sentence_transformers_mirror.search.rerank import judge, reranked
from sentence_transformers_mirror.search.state import State
from sentence_transformers_mirror.search.vectors import unit
from sentence_transformers_mirror.texts.files import refuse_no_texts

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from sentence_transformers_mirror.search.fusion import Found
    from sentence_transformers_mirror.search.rerank import Judge

logger = logging.getLogger(__name__)


class Asked(Base):
    """What readers do, at the same time as writers if need be."""

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
        if mode != "meaning" or rerank is not None or state.snapshot.passages is not None:
            return self._found(state, query, top_k, threshold, where, mode, weight, fusion, rerank, candidates)
        vectors, single = _queries(state, query)
        snapshot = state.snapshot
        least = self._threshold(state, threshold)
        allowed = snapshot.alive if where is None else filters.mask(snapshot, where)
        structure = snapshot.loaded
        scores, rows = ann.search(snapshot.vectors, structure, vectors, top_k, allowed)
        np.clip(scores, -1, 1, out=scores)  # products of unit vectors are up to 1.0000002
        lazy = Hit.lazy
        found = [
            [lazy(score, snapshot, row) for score, row in zip(*line, strict=True) if least is None or score >= least]
            for line in zip(scores.tolist(), rows.tolist(), strict=True)
        ]
        if single and not found[0] and scores.size:
            logger.info(f"No text scores {least:.3f} or more; the best has {scores.max():.3f}.")
        return found[0] if single else found

    def _found(
        self,
        state: State,
        query: str | Sequence[str] | np.ndarray,
        top_k: int,
        threshold: float | str | None,
        where: filters.Where | None,
        mode: str,
        weight: float,
        fusion: str,
        rerank: CrossEncoder | Judge | str | Path | None,
        candidates: int,
    ) -> list[Hit] | list[list[Hit]]:
        """What ``search`` gives for all that is more than a search by meaning in texts that are not cut."""
        queries: Any = query
        single = isinstance(query, str)
        if mode != "meaning" or rerank is not None:
            if isinstance(query, np.ndarray) and query.dtype.kind in "fiu":
                what = f"A search by {mode}" if rerank is None else "A second look"
                raise TypeError(f"{what} needs a query in words, not a vector: pass a string.")
            queries = _strings(query)
        least = fuse.check_bm25(threshold) if mode == "words" else self._threshold(state, threshold)
        told = "words" if mode == "words" else "meaning"
        judged = None if rerank is None else judge(rerank)  # complains before anything is embedded
        if mode != "words":
            vectors, one = _queries(state, queries)
            single = single or one
        snapshot = state.snapshot
        allowed = snapshot.alive if where is None else filters.mask(snapshot, where)

        def ask(count: int) -> list[list[Found]]:
            if mode == "meaning":
                return fuse.by_meaning(snapshot, vectors, count, allowed)
            if mode == "words":
                return fuse.by_words(snapshot, queries, count, allowed)
            return fuse.by_both(snapshot, vectors, queries, count, allowed, weight, fusion)

        wanted = top_k if rerank is None else max(top_k, candidates)
        lines = ask(wanted) if snapshot.owners is None else documents(ask, snapshot.owners, wanted)
        found = [
            [Hit.of(one, snapshot) for one in line if least is None or getattr(one, told) >= least] for line in lines
        ]
        if judged is not None:
            found = [reranked(judged, text, hits)[:top_k] for text, hits in zip(queries, found, strict=True)]
        return found[0] if single else found

    def _threshold(self, state: State, threshold: float | str | None) -> float | None:
        threshold = plain(threshold)
        if isinstance(threshold, str) and threshold == "auto":
            calibration = state.snapshot.calibration
            return self._calibrated(state, RATE, 0, wait=False) if calibration is None else calibration.threshold
        if threshold is None:
            return None
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
            raise ValueError(f"threshold is a cosine similarity, -1 to 1, or 'auto', not {quoted(threshold)}.")
        return threshold

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
            refuse_no_texts([] if isinstance(queries, str) else queries)
            queries = [queries] if isinstance(queries, str) else list(queries)
            for number, query in enumerate(queries):
                check_text(query, f"queries[{number}]")
            if not queries:
                raise ValueError("There are no queries: pass some, or leave them out.")
            if state.encoder is None:
                raise ValueError("This index was loaded without a model to embed queries: pass one, or no queries.")
        return self._calibrated(state, false_positive_rate, seed, queries)

    def _calibrated(
        self,
        state: State,
        false_positive_rate: float,
        seed: int,
        queries: list[str] | None = None,
        wait: bool = True,
    ) -> float:
        embed = None if state.encoder is None else state.encoder.queries
        calibration = calibrate(state.snapshot, plain(false_positive_rate), seed, embed, queries)
        if self._writing.acquire(blocking=wait):  # a search does not wait for a change
            try:
                now = self._state
                if now.encoder is state.encoder:
                    self._state = now.calibrated(calibration)
            finally:
                self._writing.release()
        return calibration.threshold


def _queries(state: State, query: str | Sequence[str] | np.ndarray) -> tuple[np.ndarray, bool]:
    if isinstance(query, np.ndarray) and query.dtype.kind in "fiu":
        if query.ndim not in (1, 2) or query.shape[-1] != state.dimension:
            raise ValueError(
                f"A query vector must have the {state.dimension} dimensions of the index, not shape {query.shape}."
            )
        vectors = query[None] if query.ndim == 1 else query
        return unit(vectors, range(len(vectors))), query.ndim == 1
    queries = _strings(query)
    if state.encoder is None:
        raise ValueError(
            "This index was loaded without a model to embed queries: pass SearchIndex.load(path, model=...)."
        )
    if not queries:
        return np.empty((0, state.dimension), np.float32), False
    vectors = state.encoder.queries(queries)
    if vectors.shape[1] != state.dimension:
        raise ValueError(
            f"The model makes vectors of {vectors.shape[1]} dimensions and the index has {state.dimension}: load the "
            "index with the model that built it."
        )
    return vectors, isinstance(query, str)


def _strings(query: str | Iterable[str]) -> list[str]:
    if not isinstance(query, str) and (isinstance(query, Mapping) or not isinstance(query, Iterable)):
        raise TypeError(f"query must be a string or a list of strings, not one {type(query).__name__}.")
    queries = [query] if isinstance(query, str) else list(query)
    for position, text in enumerate(queries):
        check_text(text, "query" if isinstance(query, str) else f"query[{position}]")
    return queries
