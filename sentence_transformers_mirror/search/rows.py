"""Texts become rows: read in windows, cut into passages where the index has these, and embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import Window, check_new
from sentence_transformers_mirror.search.passages import Cutter, warn_of_long
from sentence_transformers_mirror.search.state import State
from sentence_transformers_mirror.search.vectors import unit
from sentence_transformers_mirror.terminal import bar

WINDOW = 32_768  # texts that are read, sorted by length and embedded at a time
DOCUMENTS = 1_024  # the same, of long ones

Rows = Iterator[tuple[np.ndarray, pa.Table]]  # unit vectors and the entries of as many rows


def of_texts(
    encoder: Encoder,
    entries: Iterator[Window],
    cutter: Cutter | None,
    batch_size: int | None,
    total: int | None,
    show_progress: bool | None,
) -> Rows:
    """Embed texts, or their passages if there is a cutter, as they come."""
    seen: set[int | str] = set()
    rows, warned = 0, cutter is not None
    with progress(total, show_progress) as shown:
        for window in entries:
            names = _names(window, rows, seen)
            warned = warned or warn_of_long(encoder.model, window.texts, rows)
            if cutter is not None:
                window = replace(window, spans=cutter.spans(window.texts))
            before = rows if cutter is None else None  # passages are not counted
            yield encoder.documents(window.passages, batch_size, shown.update, before), window.table(names)
            rows += len(window.texts)


def of_vectors(vectors: np.ndarray, entries: Iterator[Window], encoder: Encoder | None) -> Rows:
    """Take the vectors of texts that were embedded already; an encoder, if there is one, should have made them."""
    seen: set[int | str] = set()
    rows = 0
    for window in entries:
        stop = rows + len(window.texts)
        if stop > len(vectors):
            raise ValueError(f"There are {len(vectors)} vectors for at least {stop} texts: pass one per text.")
        names = _names(window, rows, seen)
        made = unit(vectors[rows:stop], window.texts, rows)
        if encoder is not None and rows == 0:
            agree(encoder, made, window.texts)
        yield made, window.table(names)
        rows = stop
    if rows < len(vectors):
        raise ValueError(f"There are {len(vectors)} vectors for {rows} texts: pass one per text.")


def _names(window: Window, begin: int, seen: set[int | str]) -> list[int | str]:
    if window.ids is None:
        return list(range(begin, begin + len(window.texts)))
    check_new(window.ids, seen)
    return window.ids


def embedded(
    state: State,
    window: Window,
    vectors: np.ndarray | None,
    batch_size: int | None,
    done: Callable[[int], object] | None = None,
    before: int = 0,
) -> tuple[Window, np.ndarray]:
    """A window, cut where the index cuts texts, and its vectors: those that were given, or made; as `Encoder` does."""
    passages, encoder = state.snapshot.passages, state.encoder
    if vectors is None:
        if encoder is None:
            cure = "pass one, or their vectors" if passages is None else "pass one"
            raise ValueError(f"This index was loaded without a model to embed texts: {cure}.")
        if passages is None:
            warn_of_long(encoder.model, window.texts, before, "index again with")
        else:
            window = replace(window, spans=Cutter(encoder.model, passages).spans(window.texts))
        made = encoder.documents(window.passages, batch_size, done, before if passages is None else None)
        state.refuse_others(made)
        return window, made
    if passages is not None:
        raise ValueError("This index cuts texts into passages and embeds these: pass texts without vectors.")
    shape, wanted = getattr(vectors, "shape", None), (len(window.texts), state.dimension)
    if shape != wanted:
        raise ValueError(f"vectors must have the shape {wanted}, not {shape}.")
    given = unit(vectors, window.texts, before)
    if state.model.fingerprint is not None:
        if encoder is None:
            raise ValueError("Without the model that built this index, vectors cannot be checked: load it with it.")
        agree(encoder, given, window.texts)
    return window, given


def agree(encoder: Encoder, vectors: np.ndarray, texts: list[str]) -> None:
    """Refuse vectors that another model made, told by the cosine of the first three with what this one makes."""
    if not texts:
        return
    mine = encoder.documents(texts[:3])
    if mine.shape[1] != vectors.shape[1] or ((mine * vectors[:3]).sum(axis=1) < 0.99).any():
        raise ValueError("The vectors are not of this model: it makes others of their texts.")


def progress(total: int | None, show: bool | None) -> Any:
    return bar(total=total, unit=" texts", desc="Embedding", show=show)
