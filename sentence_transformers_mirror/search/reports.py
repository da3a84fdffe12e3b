"""What is measured about an index, and kept and told with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

Count = Annotated[int, 0, 2**63 - 1]
_Some = Annotated[int, 1, 2**63 - 1]
_Share = Annotated[float, 0, 1]


@dataclass(frozen=True)
class _Measured:
    def as_dict(self) -> dict[str, Any]:
        """Numbers and strings by their names, without what was not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Report(_Measured):
    """How a structure was chosen and what it was measured to be; a scan has neither factory nor recall."""

    kind: str  # what there is
    asked: str  # what a user asked for
    reason: str  # why it became this
    rows: Count  # that there were
    latency: float | None = None  # seconds that a scan takes for one query, where the kind was left to us
    factory: str | None = None  # the factory string of FAISS
    effort: _Some | None = None  # as in `Structure`
    depth: _Some | None = None
    recall: _Share | None = None  # mean recall@10
    recall_bound: _Share | None = None  # lower end of its one-sided 95% interval
    sample: _Some | None = None  # queries that it was measured on
    seconds: float = 0.0  # what all of this took


@dataclass(frozen=True)
class Calibration(_Measured):
    """A score that a query and a text that do not belong together rarely reach."""

    threshold: Annotated[float, -1.001, 1.001]
    false_positive_rate: _Share  # of the pairs that reach it
    pairs: Count  # that were compared
    texts: Count  # that the index had
    # What was asked: given queries, parts of texts, or texts, as None in an earlier release.
    queries: Literal["given", "parts", "texts"] | None = None
