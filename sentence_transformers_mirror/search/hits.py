"""What a search gives back, and a second look: a slower and better judge orders it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sentence_transformers_mirror.search.snapshot import Snapshot

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Judge = Callable[[list[tuple[str, str]]], Iterable[float]]


@dataclass(frozen=True)
class Hit:
    """A text that was found. Id, text and metadata are each read from the index when they are looked at.

    Args:
        id: The id as it was given, or the number that the text got.
        score: What the hits are ordered by: ``meaning``; ``words`` after a search by these; 0 to about 1 after a
            search by both, where 1 is the best by both.
        text: The text.
        metadata: The metadata as it was given; empty if there was none.
        meaning: The cosine similarity to the query, -1 to 1; None after a search by words.
        words: The BM25 score, 0 if no word of the query occurs; None after a search by meaning.
        passage: The best passage of the text; None if the index does not cut texts.
        span: Where the passage begins and ends in the text, in characters; or None.

    Example:
        >>> from sentence_transformers_mirror import SearchIndex, embedded_model_path
        >>> texts = ["Open a file.", "Close a window."]
        >>> index = SearchIndex.build(embedded_model_path(), texts, ids=["file", "window"])
        >>> best = index.search("how do I open a file?")[0]
        >>> best.id, best.text
        ('file', 'Open a file.')
    """

    # Without a dictionary each: a thousand queries have ten thousand hits, and making these must not take longer than
    # finding them.
    __slots__ = ("id", "score", "text", "metadata", "meaning", "words", "passage", "span", "_snapshot", "_row")

    id: int | str
    score: float
    text: str
    metadata: dict[str, Any]
    meaning: float | None
    words: float | None
    passage: str | None
    span: tuple[int, int] | None

    @classmethod
    def lazy(cls, snapshot: Snapshot, row: int, score: float) -> Hit:
        """A hit by meaning that is read when it is looked at, from the index as it was when it was searched."""
        hit = _new(cls)
        _set_snapshot(hit, snapshot)
        _set_row(hit, row)
        _set_score(hit, score)
        return hit

    @classmethod
    def of(cls, snapshot: Snapshot, row: int, score: float, meaning: float | None, words: float | None) -> Hit:
        """The same, of a search that tells other scores."""
        hit = cls.lazy(snapshot, row, score)
        object.__setattr__(hit, "meaning", meaning)
        object.__setattr__(hit, "words", words)
        return hit

    def __getattr__(self, name: str) -> Any:
        # Called only for what is not there: the first look at a part of a lazy hit reads it.
        if name in ("id", "text", "metadata", "span"):
            segment, local = self._snapshot.locate(self._row)
            value = getattr(segment, name)(local)
        elif name in ("meaning", "words"):
            value = self.score if name == "meaning" else None
        elif name == "passage":
            value = None if self.span is None else self.text[slice(*self.span)]
        else:
            raise AttributeError(f"Hit has no attribute {name!r}")
        object.__setattr__(self, name, value)
        return value

    def __reduce__(self) -> tuple:
        return Hit, tuple(getattr(self, name) for name in Hit.__slots__[:-2])


# A frozen dataclass is written to past its own guard.
_new = object.__new__
_set_snapshot, _set_row, _set_score = (vars(Hit)[name].__set__ for name in ("_snapshot", "_row", "score"))


def vectors_of(hits: list[Hit]) -> np.ndarray:
    """The unit vectors that one search compared with its query, shape (hits, dimension), float32."""
    if not hits:
        return np.empty((0, 0), np.float32)
    return hits[0]._snapshot.vectors.take(np.array([hit._row for hit in hits], np.int64))


def judge(rerank: CrossEncoder | Judge | str | Path) -> Judge:
    """A function that scores pairs of a query and a text: of a ``CrossEncoder``, of its name or path, or as it is."""
    from sentence_transformers import CrossEncoder

    if isinstance(rerank, (str, Path)):
        rerank = _loaded(str(rerank))
    if isinstance(rerank, CrossEncoder):
        return partial(rerank.predict, show_progress_bar=False)
    if not callable(rerank):
        raise TypeError(
            f"rerank must be a CrossEncoder, its name or path, or a function of pairs, not {type(rerank).__name__}."
        )
    return rerank


def _loaded(name: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    from sentence_transformers_mirror import _host
    from sentence_transformers_mirror.models import chosen_device
    from sentence_transformers_mirror.terminal import quiet

    device = chosen_device()
    try:
        with quiet():
            model = CrossEncoder(name, device=device)
    except Exception as error:  # a damaged folder raises anything
        raise OSError(
            f"The model {name!r} could not be loaded to take a second look: no such folder, or no CrossEncoder in it, "
            f"and none of this name in the hub ({type(error).__name__})."
        ) from error
    random = [weight for encoder in _host.encoders(model) for weight in _host.random_weights(encoder)]
    if random:
        raise OSError(
            f"The model {name!r} was not trained to judge pairs, its files lack {random[-1]} and the order would be "
            "random: name a CrossEncoder, also called a reranker."
        )
    return model


def reranked(judge: Judge, query: str, hits: list[Hit]) -> list[Hit]:
    """Hits by what a judge says of their passages, or texts, highest first; equal ones stay in their order."""
    if not hits:
        return []
    given = judge([(query, hit.text if hit.passage is None else hit.passage) for hit in hits])
    try:
        scores = np.array(list(given), np.float64)
    except (TypeError, ValueError):
        scores = np.empty((0, 0))
    if scores.shape != (len(hits),) or not np.isfinite(scores).all():
        raise ValueError(
            f"rerank must give one finite number for each of the {len(hits)} pairs, as a CrossEncoder with one label "
            f"does, and gave an array of shape {scores.shape}."
        )
    for hit, score in zip(hits, scores.tolist(), strict=True):
        hit.meaning  # noqa: B018  # is the score of before, until it was looked at
        object.__setattr__(hit, "score", score)
    return [hits[place] for place in np.argsort(-scores, kind="stable")]
