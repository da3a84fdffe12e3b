"""What a search gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sentence_transformers_mirror.search.segments import Snapshot


@dataclass(frozen=True)
class Hit:
    """A text that was found. Id, text and metadata are each read from the index when they are looked at.

    Args:
        id: As it was given, or the number that the text got.
        score: Cosine similarity to the query, -1 to 1.
        text: The text.
        metadata: As it was given; empty if there was none.
    """

    # Without a dictionary each: a thousand queries have ten thousand hits, and making these must not take longer than
    # finding them.
    __slots__ = ("id", "score", "text", "metadata", "_snapshot", "_row")

    id: int | str
    score: float
    text: str
    metadata: dict[str, Any]

    @classmethod
    def lazy(cls, score: float, snapshot: Snapshot, row: int) -> Hit:
        """A hit of a row that is read when the hit is looked at, from the index as it was when it was searched."""
        hit = _new(cls)
        _set_score(hit, score)
        _set_snapshot(hit, snapshot)
        _set_row(hit, row)
        return hit

    def __getattr__(self, name: str) -> Any:
        # Called only for what is not there: the first look at a part of a lazy hit reads it.
        if name not in ("id", "text", "metadata"):
            raise AttributeError(f"Hit has no attribute {name!r}")
        segment, local = self._snapshot.locate(self._row)
        value = getattr(segment, name)(local)
        object.__setattr__(self, name, value)
        return value

    def __reduce__(self) -> tuple:
        return Hit, (self.id, self.score, self.text, self.metadata)


# A frozen dataclass is written to past its own guard.
_new, _set_score, _set_snapshot, _set_row = (
    object.__new__,
    Hit.score.__set__,
    Hit._snapshot.__set__,
    Hit._row.__set__,
)
