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

    id: int | str
    score: float
    text: str
    metadata: dict[str, Any]

    @classmethod
    def lazy(cls, score: float, snapshot: Snapshot, row: int) -> Hit:
        """A hit of a row that is read when the hit is looked at, from the index as it was when it was searched."""
        hit = object.__new__(cls)
        values = hit.__dict__
        values["score"], values["_source"] = score, (snapshot, row)
        return hit

    def __getattr__(self, name: str) -> Any:
        # Called only for what is not there: the first look at a part of a lazy hit reads it.
        source = self.__dict__.get("_source")
        if source is None or name not in ("id", "text", "metadata"):
            raise AttributeError(f"Hit has no attribute {name!r}")
        snapshot, row = source
        segment, local = snapshot.locate(row)
        value = self.__dict__[name] = getattr(segment, name)(local)
        return value

    def __reduce__(self) -> tuple:
        return Hit, (self.id, self.score, self.text, self.metadata)
