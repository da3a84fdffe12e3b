"""The API of search: build an index over texts, ask it, change it, keep it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search import ann, filters, manifest, store, words
from sentence_transformers_mirror.search import fusion as fuse
from sentence_transformers_mirror.search.calibration import RATE, calibrate
from sentence_transformers_mirror.search.describe import describe
from sentence_transformers_mirror.search.encoder import Encoder, unit
from sentence_transformers_mirror.search.entries import Window, check_id, check_new, check_text, windows
from sentence_transformers_mirror.search.hits import Hit
from sentence_transformers_mirror.search.identity import KIND
from sentence_transformers_mirror.search.passages import Cutter, check_passages, documents, warn_of_long
from sentence_transformers_mirror.search.rerank import judge, reranked
from sentence_transformers_mirror.search.segments import Segment, Snapshot, compacted, entries_schema, gathered
from sentence_transformers_mirror.search.state import State, appended, identity, settled, without
from sentence_transformers_mirror.texts.files import refuse_no_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from sentence_transformers_mirror.search.fusion import Found
    from sentence_transformers_mirror.search.rerank import Judge

logger = logging.getLogger(__name__)

_WINDOW = 32_768  # texts that are read, sorted by length and embedded at a time
_DOCUMENTS = 1_024  # the same, of long ones


class SearchIndex:
    """Search over texts by the cosine similarity of their embeddings.

    Made by ``build``, ``from_vectors``, ``load`` or ``open``. Threads may search it while another changes and saves
    it: a search sees the index as it was when the search began.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        dimension: int,
        choice: ann.Choice,
        encoder: Encoder | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        """Use ``build``, ``from_vectors``, ``load`` or ``open``."""
        self._state = State(snapshot, dimension, encoder, identity(encoder, model))
        self._choice = choice
        # The folders it lies in, each with the tags that a save of this index may have left there.
        self._homes: dict[str, tuple[str, ...]] = {}
        self._structure_file: manifest.Kept | None = None
        self._writing = threading.RLock()
        _indexes.add(self)

    # One state, taken once by whoever reads it and replaced once by whoever changes it; these are its parts.
    @property
    def _snapshot(self) -> Snapshot:
        return self._state.snapshot

    @property
    def _dimension(self) -> int:
        return self._state.dimension

    @property
    def _encoder(self) -> Encoder | None:
        return self._state.encoder

    @property
    def _model(self) -> dict[str, Any]:
        return self._state.model

    @property
    def _row_of(self) -> dict[int | str, int]:
        return self._state.positions

    def __copy__(self) -> SearchIndex:
        """An index of its own over the same rows, which never change; the model is shared."""
        state = self._state
        copied = SearchIndex(
            state.snapshot, dimension=state.dimension, choice=self._choice, encoder=state.encoder, model=state.model
        )
        copied._homes, copied._structure_file = dict(self._homes), self._structure_file
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> SearchIndex:
        return self.__copy__()

    def __reduce__(self) -> tuple:
        raise TypeError("An index is not pickled: save it into a folder, and open that where it is wanted.")

    # ------------------------------------------------------------------ make

    @classmethod
    def build(
        cls,
        model: SentenceTransformer | str | Path,
        texts: Iterable[str] | Dataset | Path,
        *,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        kind: str = "auto",
        recall: float = 0.95,
        max_latency: float = 0.02,
        max_memory: int = 2**32,
        dimensions: int | None = None,
        language: str | None = None,
        passages: int | None = None,
        path: str | Path | None = None,
        batch_size: int | None = None,
        show_progress: bool | None = None,
        overwrite: bool = False,
    ) -> SearchIndex:
        """Embed texts, with the model's document prompt if it has one, and index them.

        Texts are read in windows of 32,768. With ``path``, vectors and texts go to disk as they come, and memory
        holds one window, about 100 bytes an id that was given, and the structure: nothing for ``flat``, 4 bytes a
        number for ``hnsw`` and ``ivf-flat``, 1 for ``ivf-sq8``, an eighth for ``ivf-pq``, and 8 bytes a row. Without,
        it holds vectors (4 bytes a number) and texts besides.

        Args:
            model: A model, or its name or path.
            texts: Strings, none of them blank; a ``datasets.Dataset`` with a column ``text``; or a ``pathlib.Path``
                of a file of them (a text a line; csv, tsv, json, jsonl or parquet with a column ``text``).
            ids: An int or str per text, all different; by default the position of the text, from 0.
            metadata: A dictionary of JSON values per text, or None.
            kind: How to search: ``flat`` (exact), ``hnsw``, ``ivf-flat``, ``ivf-sq8``, ``ivf-pq``, a factory string
                of FAISS, or ``auto``: exact while a measured scan takes at most ``max_latency``, else inverted lists.
            recall: Recall@10 that anything but ``flat`` is tuned to on rows of the index, in (0, 1).
            max_latency: Seconds that one query may take, for ``auto``.
            max_memory: Bytes of vectors, above which ``auto`` keeps them quantised to one byte a number.
            dimensions: Keep only so many dimensions of a vector, for Matryoshka models.
            language: Language whose words are stemmed for a search by words, such as ``english``; None stems none.
            passages: Cut texts into passages of at most so many tokens, at the ends of sentences where there are any,
                and find a text by its best one; None embeds a text as a whole, as far as the model reads.
            path: Write the index here while it is built; it is then open (memory-mapped).
            batch_size: Texts embedded at a time; by default so many that they have about 1,000 tokens, or
                16,000 on a GPU.
            show_progress: Whether to show a progress bar; by default if standard error is a terminal.
            overwrite: Whether to replace an index that lies at ``path``.

        Returns:
            The index. It keeps the model to embed queries.

        Raises:
            ConflictError: If an index lies at ``path`` and is not to be overwritten.
            OSError: If the model or a file cannot be read, or the folder not be written.
            TypeError: If a text is no string, an id neither int nor str, metadata no dictionary of JSON values, or
                ``model`` no model.
            ValueError: If there are no texts, one is blank or has a zero or non-finite vector, the ids are not one per
                text and all different, or FAISS cannot make the kind.
        """
        choice = ann.Choice(kind, recall, max_latency, max_memory)
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        words.check_language(language)
        passages = check_passages(passages)
        if path is not None:
            store.refuse_taken(path, overwrite)
        entries = windows(texts, ids, metadata, _WINDOW if passages is None else _DOCUMENTS)
        first = next(entries, None)  # complains about texts before a model is loaded
        if first is None:
            raise ValueError("There is nothing to index: pass at least one text.")
        encoder = Encoder(model, dimensions)
        cutter = None if passages is None else Cutter(encoder.model, passages)
        total = len(texts) if hasattr(texts, "__len__") and cutter is None else None

        def embedded() -> Iterator[tuple[np.ndarray, pa.Table]]:
            seen: set[int | str] = set()
            rows, warned = 0, cutter is not None
            with _progress(total, show_progress) as bar:
                for window in _chain(first, entries):
                    names = list(range(rows, rows + len(window.texts))) if window.ids is None else window.ids
                    if window.ids is not None:
                        check_new(names, seen, "there twice")
                    warned = warned or warn_of_long(encoder.model, window.texts)
                    window = _cut(window, cutter)
                    yield encoder.documents(window.passages, batch_size, bar.update), window.table(names)
                    rows += len(window.texts)

        return cls._made(embedded(), encoder=encoder, choice=choice, language=language, passages=passages, path=path)

    @classmethod
    def from_vectors(
        cls,
        vectors: np.ndarray,
        texts: Iterable[str] | Dataset | Path,
        *,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        model: SentenceTransformer | str | Path | None = None,
        kind: str = "auto",
        recall: float = 0.95,
        max_latency: float = 0.02,
        max_memory: int = 2**32,
        language: str | None = None,
        path: str | Path | None = None,
        overwrite: bool = False,
    ) -> SearchIndex:
        """Index texts whose embeddings are there already.

        Args:
            vectors: Shape (texts, dimension), numbers; they are normalised. May be memory-mapped.
            texts, ids, metadata, kind, recall, max_latency, max_memory, language, path, overwrite: As for ``build``.
            model: The model that made the vectors, for queries in words; a few texts are embedded to see whether it
                did. Without it, search with vectors.

        Raises:
            ConflictError, OSError, TypeError: As for ``build``.
            ValueError: As for ``build``; or if the vectors are not one per text, or not of this model.
        """
        choice = ann.Choice(kind, recall, max_latency, max_memory)
        words.check_language(language)
        if getattr(vectors, "ndim", 0) != 2 or not vectors.shape[1]:
            raise ValueError("vectors must be an array of shape (texts, dimension).")
        if path is not None:
            store.refuse_taken(path, overwrite)
        encoder = None if model is None else Encoder(model, None)

        def given() -> Iterator[tuple[np.ndarray, pa.Table]]:
            seen: set[int | str] = set()
            rows = 0
            for window in windows(texts, ids, metadata, _WINDOW):
                stop = rows + len(window.texts)
                if stop > len(vectors):
                    raise ValueError(f"There are {len(vectors)} vectors for at least {stop} texts: pass one per text.")
                names = list(range(rows, stop)) if window.ids is None else window.ids
                if window.ids is not None:
                    check_new(names, seen, "there twice")
                made = unit(vectors[rows:stop], window.texts)
                if encoder is not None and rows == 0:
                    _agree(encoder, made, window.texts)
                yield made, window.table(names)
                rows = stop
            if rows < len(vectors):
                raise ValueError(f"There are {len(vectors)} vectors for {rows} texts: pass one per text.")

        if not len(vectors):
            raise ValueError("There is nothing to index: pass at least one text.")
        return cls._made(given(), encoder=encoder, choice=choice, language=language, path=path)

    @classmethod
    def _made(
        cls,
        rows: Iterator[tuple[np.ndarray, pa.Table]],
        *,
        encoder: Encoder | None,
        choice: ann.Choice,
        language: str | None,
        passages: int | None = None,
        path: str | Path | None,
    ) -> SearchIndex:
        schema = entries_schema(passages)

        def over(segment: Segment, dimension: int) -> SearchIndex:
            snapshot = replace(Snapshot.of(segment), language=language, passages=passages)
            index = cls(snapshot, dimension=dimension, choice=choice, encoder=encoder)
            index._state = settled(index._state, choice)
            return index

        if path is None:
            segment = gathered(rows)
            return over(segment, segment.vectors.shape[1])
        with store.saving(path) as save:
            with save.segment(schema) as writer:
                for vectors, table in rows:
                    writer.append(vectors, table)
            segment = save.opened(writer.record, writer.dimension, schema)
            index = over(segment, writer.dimension)
            index._write(save)
        return index

    # ------------------------------------------------------------------ ask

    @overload
    def search(
        self,
        query: str,
        top_k: int = 10,
        threshold: float | Literal["auto"] | None = None,
        where: filters.Where | None = None,
        *,
        mode: Literal["meaning", "words", "both"] = ...,
        weight: float | None = ...,
        fusion: Literal["convex", "rrf"] = ...,
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
        mode: Literal["meaning", "words", "both"] = ...,
        weight: float | None = ...,
        fusion: Literal["convex", "rrf"] = ...,
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
        mode: Literal["meaning", "words", "both"] = "meaning",
        weight: float | None = None,
        fusion: Literal["convex", "rrf"] = "convex",
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
                call; for several calls pass the model. It sees the best passage where
                texts are cut, and its number is the ``score`` of a hit.
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
        top_k = plain(top_k)
        if not isinstance(top_k, int) or isinstance(top_k, bool):
            raise TypeError(f"top_k is the number of hits wanted and must be an int, not {top_k!r:.60}.")
        if top_k < 1:
            raise ValueError(f"top_k is the number of hits wanted and must be at least 1, not {top_k}.")
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
        queries, single = query, isinstance(query, str)
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
        if snapshot.owners is None:
            lines = ask(wanted)
        else:
            lines = documents(ask, snapshot.owners, wanted, max(len(snapshot.removed), 1))
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
            return self._calibrated(state, RATE, 0, wait=False) if calibration is None else calibration["threshold"]
        if threshold is None:
            return None
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
            raise ValueError(f"threshold is a cosine similarity, -1 to 1, or 'auto', not {threshold!r:.60}.")
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
        return calibration["threshold"]

    # ------------------------------------------------------------------ change

    def add(
        self,
        texts: Iterable[str] | Dataset | Path,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        vectors: np.ndarray | None = None,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[int | str]:
        """Add texts. An error leaves the index as it was.

        Args:
            texts, ids, metadata, batch_size, show_progress: As for ``build``; by default the ids are the numbers after
                the largest that there ever was.
            vectors: The embeddings of the texts, shape (texts, dimension), where they are there already.

        Returns:
            The ids of the new texts.

        Raises:
            OSError, TypeError: As for ``build``.
            ValueError: As for ``build``; or if an id is in the index, or there is neither a model nor ``vectors``.
        """
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        state = self._state
        with _progress(len(texts) if hasattr(texts, "__len__") else None, show_progress) as bar:
            read, given = [], []
            rows = 0
            for window in windows(texts, ids, metadata, _WINDOW):
                if window.ids is not None:
                    check_new(window.ids, state.positions, "in the index already; use update, or")
                given.append(None if vectors is None else vectors[rows : rows + len(window.texts)])
                read.append(_embedded(state, window, given[-1], batch_size, bar.update))
                rows += len(window.texts)
        if vectors is not None and len(vectors) != rows:
            raise ValueError(f"There are {len(vectors)} vectors for {rows} texts: pass one per text.")
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [
                    _embedded(now, window, mine, batch_size) for (window, _), mine in zip(read, given, strict=True)
                ]
            now, names = appended(now, read)
            self._state = settled(now, self._choice)
        return names

    def remove(self, ids: int | str | Iterable[int | str]) -> None:
        """Remove texts. An error leaves the index as it was.

        Raises:
            TypeError: If an id is neither int nor str.
            ValueError: If an id is not in the index, or is given twice.
        """
        with self._writing:
            ids = plain(ids)
            state = self._state
            rows = state.rows_of([ids] if isinstance(ids, (int, str)) else ids)
            self._state = settled(without(state, rows), self._choice)

    def update(
        self,
        ids: int | str | Iterable[int | str],
        texts: str | Iterable[str],
        metadata: Mapping[str, Any] | Iterable[Mapping[str, Any] | None] | None = None,
        *,
        vectors: np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Give texts that are in the index another text. An error leaves the index as it was.

        They come last from now on, among equal scores and in iteration.

        Args:
            ids: An id, or several.
            texts: The new text, or one per id.
            metadata: The new metadata, or one per id; None, or None for an id, keeps what there is, and an empty
                dictionary clears it.
            vectors: The embeddings of the texts, shape (texts, dimension), where they are there already.
            batch_size: As for ``build``.

        Raises:
            TypeError, ValueError: As for ``add`` and ``remove``.
        """
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        ids = plain(ids)
        if isinstance(ids, (int, str)):
            ids, texts = [ids], [texts]
            metadata = None if metadata is None else [metadata]
        ids = [check_id(item) for item in ids]
        new = list(windows(texts, ids, metadata, max(len(ids), 1)))
        if sum(len(window.texts) for window in new) != len(ids):
            raise ValueError(f"There are fewer texts than the {len(ids)} ids: pass one per id.")
        state = self._state
        state.rows_of(ids)
        if vectors is not None and len(vectors) != len(ids):
            raise ValueError(f"There are {len(vectors)} vectors for {len(ids)} texts: pass one per text.")
        read = [_embedded(state, window, vectors, batch_size) for window in new]
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [_embedded(now, window, vectors, batch_size) for window, _ in read]
            rows = now.rows_of(ids)
            for window, _ in read:
                for number, row in enumerate(rows):
                    if window.metadata[number] is None:
                        segment, local = now.snapshot.locate(row)
                        window.metadata[number] = segment.entries.column("metadata")[local].as_py()
            self._state = settled(appended(without(now, rows), read)[0], self._choice)

    def rebuild(
        self,
        model: SentenceTransformer | str | Path,
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> None:
        """Embed all texts again, with another model or with this one after it was tuned; ids and metadata stay.

        Raises:
            OSError, TypeError, ValueError: As for ``build``; the index is then as it was.
        """
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        encoder = Encoder(model, self._model["dimensions"])
        with self._writing, _progress(self._snapshot.size, show_progress) as bar:
            before = self._state.snapshot
            if before.passages is not None:
                Cutter(encoder.model, before.passages)  # refuses a model that does not read as much
            whole = compacted(before) if before.size else None
            if whole is None:
                raise ValueError("The index is empty: build a new one with the other model.")

            read = whole.passages()

            def embedded() -> Iterator[tuple[np.ndarray, pa.Table]]:
                for start in range(0, len(whole), _WINDOW):
                    table = whole.entries.slice(start, _WINDOW)
                    yield encoder.documents(read.slice(start, _WINDOW).to_pylist(), batch_size, bar.update), table

            segment = gathered(embedded())
            snapshot = replace(
                before,
                segments=(segment,),
                removed=np.zeros(len(segment), bool),
                structure=None,
                report={},
                calibration=None,
            )
            made = State(snapshot, segment.vectors.shape[1], encoder, identity(encoder))
            self._state = settled(made, self._choice)

    # ------------------------------------------------------------------ keep

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the index, but not the model, into a folder; its older save there is replaced in one step.

        What lies there already is not written again, unless it was damaged: saving after adding a few texts writes
        these.

        Args:
            path: The folder; made if it does not exist.
            overwrite: Whether to replace an index in it that was neither loaded from there nor saved there by this
                object.

        Raises:
            BrokenIndexError: If a ``manifest.json`` that is no index lies there; it is left alone.
            ConflictError: If another program is writing there, or has saved there since this index was loaded from
                there or saved there; or another index lies there.
            OSError: If the folder cannot be written. The message says whether the index that was there is unchanged.
        """
        with self._writing, store.saving(path) as save:
            known = self._homes.get(save.home)
            if save.current is not None and known is not None and save.current["tag"] not in known:
                raise store.ConflictError(
                    f"The index in {path} was changed by another program since it was loaded here: load it again "
                    "and repeat the change, or save into another folder."
                )
            if known is None:
                store.refuse_taken(path, overwrite)
            self._write(save)

    def _write(self, save: store.Save) -> None:
        snapshot = self._snapshot
        records = [manifest.write_segment(save, segment, snapshot.language) for segment in snapshot.segments]
        removed = manifest.write_removed(save, snapshot)
        structure = manifest.write_structure(save, snapshot, self._structure_file)
        # Before the commit: whatever breaks in after it, this index knows its own save again.
        self._homes[save.home] = (*self._homes.get(save.home, ())[-1:], save.tag)
        save.commit(self._manifest(records, removed, structure))
        self._homes[save.home] = (save.tag,)
        for segment, record in zip(snapshot.segments, records, strict=True):
            segment.files = (save.home, record)
            manifest.read_words_later(segment, save.folder)
        if structure is not None:
            self._structure_file = (snapshot.structure, save.home, structure)

    def _manifest(self, segments: list[Any], removed: Any, structure: Any) -> dict[str, Any]:
        state = self._state
        snapshot = state.snapshot
        return {
            "rows": len(snapshot.removed),
            "dimension": state.dimension,
            **state.model,
            "segments": segments,
            "removed": removed,
            "structure": structure,
            "choice": asdict(self._choice),
            "report": snapshot.report,
            "calibration": snapshot.calibration,
            "next_id": snapshot.next_id,
            "language": snapshot.language,
            "passages": snapshot.passages,
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: SentenceTransformer | str | Path | None = None,
        *,
        structure: Literal["read", "rebuild"] = "read",
    ) -> SearchIndex:
        """Load an index into memory, after verifying every checksum.

        Args:
            path: The folder.
            model: The model that built the index, or its name or path. Without it, only vectors can be searched.
            structure: ``rebuild`` makes the FAISS structure anew and leaves its file unread. FAISS cannot check what
                it reads: choose this for an index from people whom you do not trust.

        Returns:
            The index.

        Raises:
            BrokenIndexError: If the folder holds no index, or one that is damaged or of a newer format.
            OSError: If there is no such model.
            TypeError: If ``model`` is no model.
            ValueError: If another model built the index.
        """
        return cls._opened(path, model, mapped=False, structure=structure)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: SentenceTransformer | str | Path | None = None,
        *,
        structure: Literal["read", "rebuild"] = "read",
    ) -> SearchIndex:
        """Open an index without reading it: its files are memory-mapped.

        Manifest, sizes and headers are verified; texts and FAISS structure are in full before their first use. That
        no number in a vector was damaged on disk it does not promise; ``verify`` does.

        Args and Raises: As for ``load``; a damaged file may be found at the first search only.
        """
        return cls._opened(path, model, mapped=True, structure=structure)

    @classmethod
    def _opened(
        cls, path: str | Path, model: SentenceTransformer | str | Path | None, mapped: bool, structure: str
    ) -> SearchIndex:
        if structure not in ("read", "rebuild"):
            raise ValueError(f"structure is 'read' or 'rebuild', not {structure!r:.60}.")
        contents = store.read(path, mapped)
        snapshot, choice = manifest.restore(contents, path, structure == "read")
        index = cls(snapshot, dimension=contents.index["dimension"], choice=choice, model=contents.index)
        index._homes[contents.home[0]] = (contents.home[1],)
        if snapshot.structure is not None and structure == "read":
            index._structure_file = (snapshot.structure, contents.home[0], contents.index["structure"])
        del contents  # with it the file of FAISS, once its structure is made
        if model is not None:
            index._take(Encoder(model, index._model["dimensions"]), path)
        if not mapped:
            index._snapshot.loaded  # noqa: B018  # now, rather than at the first search
        return index

    def _take(self, encoder: Encoder, path: str | Path) -> None:
        """Take a model as the one that made the vectors, if it did."""
        state = self._state
        known = state.model["fingerprint"]
        if known is None:
            snapshot = state.snapshot
            places = [(row, *snapshot.locate(row)) for row in snapshot.rows()[:3].tolist()]
            texts = [segment.passage(local) for _, segment, local in places]
            _agree(encoder, snapshot.vectors.take(np.array([row for row, *_ in places], np.int64)), texts)
        elif not known.startswith(KIND):
            raise ValueError(
                f"The index in {path} is of an earlier release, which did not look at tokenizers and settings of "
                "modules: load it without a model, call rebuild(model), and save it."
            )
        elif encoder.fingerprint != known:
            raise ValueError(
                f"The index in {path} was built by another model, or by this one with other weights, tokenizer, "
                "prompts, length limit or pooling: pass the model that built it, or build the index again with this "
                "one."
            )
        if encoder.width is not None and encoder.width != state.dimension:
            raise ValueError(
                f"The index in {path} has {state.dimension} dimensions and the model {encoder.width}: pass the model "
                "that built it."
            )
        self._state = replace(state, encoder=encoder, model=identity(encoder, state.model))

    # ------------------------------------------------------------------ look

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
            **state.model,
            "choice": asdict(self._choice),
            "structure": snapshot.report,
            "calibration": snapshot.calibration,
            "language": snapshot.language,
            "passages": None if snapshot.passages is None else {"tokens": snapshot.passages, "rows": snapshot.size},
        }

    def describe(self) -> str:
        """What the index holds, how it searches and why, and what was measured, in a few lines."""
        return describe(self.facts())

    @staticmethod
    def verify(path: str | Path) -> dict[str, Any]:
        """Read and verify every byte of an index on disk.

        Returns:
            ``texts``, ``files`` and ``bytes``, as numbers.

        Raises:
            BrokenIndexError: If anything is damaged, naming the file.
        """
        return manifest.verify(path)


def _embedded(
    state: State, window: Window, vectors: np.ndarray | None, batch_size: int | None, done: Any = None
) -> tuple[Window, np.ndarray]:
    """A window, cut where the index cuts texts, and the vectors of its texts or passages."""
    passages = state.snapshot.passages
    if vectors is None:
        if state.encoder is None:
            cure = "pass one, or their vectors" if passages is None else "pass one"
            raise ValueError(f"This index was loaded without a model to embed texts: {cure}.")
        if passages is None:
            warn_of_long(state.encoder.model, window.texts)
        else:
            window = _cut(window, Cutter(state.encoder.model, passages))
        made = state.encoder.documents(window.passages, batch_size, done)
        if made.shape[1] != state.dimension:
            raise ValueError(
                f"The model makes vectors of {made.shape[1]} dimensions and the index has {state.dimension}: load the "
                "index with the model that built it."
            )
        return window, made
    if passages is not None:
        raise ValueError("This index cuts texts into passages and embeds these: pass texts without vectors.")
    if getattr(vectors, "shape", None) != (len(window.texts), state.dimension):
        shape = getattr(vectors, "shape", None)
        raise ValueError(f"vectors must have the shape {(len(window.texts), state.dimension)}, not {shape}.")
    given = unit(vectors, window.texts)
    if state.model["fingerprint"] is not None:
        if state.encoder is None:
            raise ValueError("Without the model that built this index, vectors cannot be checked: load it with it.")
        _agree(state.encoder, given, window.texts)
    return window, given


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


def _agree(encoder: Encoder, vectors: np.ndarray, texts: list[str]) -> None:
    """Refuse vectors that another model made, told by the cosine of the first three with what this one makes."""
    sample = texts[:3]
    if not sample:
        return
    mine = encoder.documents(sample)
    if mine.shape[1] != vectors.shape[1] or ((mine * vectors[:3]).sum(axis=1) < 0.99).any():
        raise ValueError("The vectors are not of this model: it makes others of their texts.")


def _cut(window: Window, cutter: Cutter | None) -> Window:
    return window if cutter is None else replace(window, spans=cutter.spans(window.texts))


def _chain(first: Window, rest: Iterator[Window]) -> Iterator[Window]:
    yield first
    yield from rest


def _progress(total: int | None, show: bool | None) -> Any:
    from tqdm.auto import tqdm

    shown = sys.stderr is not None and (sys.stderr.isatty() if show is None else show)  # a service has none
    return tqdm(total=total, unit=" texts", desc="Embedding", disable=not shown)


_indexes: weakref.WeakSet[SearchIndex] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: the thread that held a lock is not there any more."""
    for index in list(_indexes):
        index._writing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
