"""Change an index: a change happens whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search.asking import Asked
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import check_id, windows
from sentence_transformers_mirror.search.passages import Cutter
from sentence_transformers_mirror.search.rows import WINDOW, embedded, progress
from sentence_transformers_mirror.search.segments import gathered
from sentence_transformers_mirror.search.snapshot import compacted
from sentence_transformers_mirror.search.state import State, identity

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


class Changed(Asked):
    """What writers do, one after the other."""

    def add(
        self,
        texts: Iterable[str] | Dataset | Path,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        *,
        vectors: np.ndarray | None = None,
        batch_size: int | None = None,
        show_progress: bool | None = None,
        overwrite: bool = False,
    ) -> list[int | str]:
        """Add texts. An error leaves the index as it was.

        Args:
            texts, ids, metadata, batch_size, show_progress: As for ``build``; by default the ids are the numbers after
                the largest that there ever was.
            vectors: The embeddings of the texts, shape (texts, dimension), where they are there already.
            overwrite: Whether a text replaces the one that has its id, metadata and all.

        Returns:
            The ids of the new texts.

        Raises:
            OSError, TypeError: As for ``build``.
            ValueError: As for ``build``; or if an id is in the index and is not to be overwritten, or there is neither
                a model nor ``vectors``.
        """
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        state = self._state
        with progress(len(texts) if isinstance(texts, Sized) else None, show_progress) as bar:
            embed, read, rows = [], [], 0
            for window in windows(texts, ids, metadata, WINDOW):
                if window.ids is not None and not overwrite:
                    state.positions.refuse(window.ids)
                mine = None if vectors is None else vectors[rows : rows + len(window.texts)]
                embed.append(partial(embedded, window=window, vectors=mine, batch_size=batch_size, before=rows))
                read.append(embed[-1](state, done=bar.update))
                rows += len(window.texts)
        if vectors is not None and len(vectors) != rows:
            raise ValueError(f"There are {len(vectors)} vectors for {rows} texts: pass one per text.")
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [again(now) for again in embed]
            if overwrite:
                rows_there = now.positions.find([item for window, _ in read for item in window.ids or ()])
                now = now.without(rows_there[rows_there >= 0].tolist())
            now, names = now.appended(read)
            self._state = now.settled()
        return names

    def remove(self, ids: int | str | Iterable[int | str]) -> None:
        """Remove texts. An error leaves the index as it was.

        Raises:
            TypeError: If an id is neither int nor str.
            ValueError: If an id is not in the index, or is given twice.
        """
        with self._writing:
            ids = plain(ids)
            rows = self._state.rows_of([ids] if isinstance(ids, (int, str)) else ids)
            self._state = self._state.without(rows).settled()

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
        bodies: Any = texts  # `windows` looks at what these are
        extra: Any = metadata
        if isinstance(ids, (int, str)):
            ids, bodies = [ids], [texts]
            extra = None if metadata is None else [metadata]
        ids = [check_id(item) for item in ids]
        new = list(windows(bodies, ids, extra, max(len(ids), 1)))  # one, if there is an id
        state = self._state
        state.rows_of(ids)
        if vectors is not None and len(vectors) != len(ids):
            raise ValueError(f"There are {len(vectors)} vectors for {len(ids)} texts: pass one per text.")
        read = [embedded(state, window, vectors, batch_size) for window in new]
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [embedded(now, window, vectors, batch_size) for window in new]
            rows = now.rows_of(ids)
            for window, _ in read:
                for number, row in enumerate(rows):
                    if window.metadata[number] is None:
                        segment, local = now.snapshot.locate(row)
                        window.metadata[number] = segment.entries.column("metadata")[local].as_py()
            self._state = now.without(rows).appended(read)[0].settled()

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
        encoder = Encoder(model, self._state.model.dimensions)
        with self._writing, progress(self._snapshot.size, show_progress) as bar:
            before, choice = self._state.snapshot, self._state.choice
            if before.passages is not None:
                Cutter(encoder.model, before.passages)  # refuses a model that does not read as much
            if not before.size:
                raise ValueError("The index is empty: build a new one with the other model.")
            whole = compacted(before)
            texts = whole.passages()
            starts = range(0, len(whole), WINDOW)
            made = (encoder.documents(texts.slice(at, WINDOW).to_pylist(), batch_size, bar.update) for at in starts)
            segment = gathered(zip(made, (whole.entries.slice(at, WINDOW) for at in starts), strict=True))
            unmeasured = replace(before, structure=None, report=None, calibration=None)
            snapshot = replace(unmeasured, segments=(segment,), removed=np.zeros(len(segment), bool))
            self._state = State(snapshot, segment.vectors.shape[1], encoder, identity(encoder), choice).settled()
