"""Change an index: a change happens whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search.base import Base
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import check_id, check_new, windows
from sentence_transformers_mirror.search.passages import Cutter
from sentence_transformers_mirror.search.rows import WINDOW, Rows, embedded, progress
from sentence_transformers_mirror.search.segments import gathered
from sentence_transformers_mirror.search.snapshot import compacted
from sentence_transformers_mirror.search.state import State, appended, identity, settled, without

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


class Changed(Base):
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
            read, given = [], []
            rows = 0
            for window in windows(texts, ids, metadata, WINDOW):
                if window.ids is not None and not overwrite:
                    check_new(window.ids, state.positions, "in the index already, and overwrite=True replaces it")
                mine = None if vectors is None else vectors[rows : rows + len(window.texts)]
                given.append((mine, rows))
                read.append(embedded(state, window, mine, batch_size, bar.update, rows))
                rows += len(window.texts)
        if vectors is not None and len(vectors) != rows:
            raise ValueError(f"There are {len(vectors)} vectors for {rows} texts: pass one per text.")
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [
                    embedded(now, window, mine, batch_size, before=before)
                    for (window, _), (mine, before) in zip(read, given, strict=True)
                ]
            if overwrite:
                given_ids = dict.fromkeys(item for window, _ in read for item in window.ids or ())
                now = without(now, [now.positions[item] for item in given_ids if item in now.positions])
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
        bodies: Any = texts  # `windows` looks at what these are
        extra: Any = metadata
        if isinstance(ids, (int, str)):
            ids, bodies = [ids], [texts]
            extra = None if metadata is None else [metadata]
        ids = [check_id(item) for item in ids]
        new = list(windows(bodies, ids, extra, max(len(ids), 1)))
        if sum(len(window.texts) for window in new) != len(ids):
            raise ValueError(f"There are fewer texts than the {len(ids)} ids: pass one per id.")
        state = self._state
        state.rows_of(ids)
        if vectors is not None and len(vectors) != len(ids):
            raise ValueError(f"There are {len(vectors)} vectors for {len(ids)} texts: pass one per text.")
        read = [embedded(state, window, vectors, batch_size) for window in new]
        with self._writing:
            now = self._state
            if now.encoder is not state.encoder or now.dimension != state.dimension:  # rebuilt meanwhile
                read = [embedded(now, window, vectors, batch_size) for window, _ in read]
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
        with self._writing, progress(self._snapshot.size, show_progress) as bar:
            before = self._state.snapshot
            if before.passages is not None:
                Cutter(encoder.model, before.passages)  # refuses a model that does not read as much
            whole = compacted(before) if before.size else None
            if whole is None:
                raise ValueError("The index is empty: build a new one with the other model.")

            read = whole.passages()

            def again() -> Rows:
                for start in range(0, len(whole), WINDOW):
                    table = whole.entries.slice(start, WINDOW)
                    yield encoder.documents(read.slice(start, WINDOW).to_pylist(), batch_size, bar.update), table

            segment = gathered(again())
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
