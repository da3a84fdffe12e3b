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
    """How a structure was chosen and what it was measured to be.

    Args:
        kind: What there is.
        asked: What a user asked for.
        reason: Why it became this.
        rows: Rows that there were.
        latency: Seconds that a scan takes for one query, where the kind was left to us.
        factory: The factory string of FAISS; this and what follows is None for a scan.
        effort, depth: As in `Structure`.
        recall: Mean recall@10.
        recall_bound: Lower end of its one-sided 95% interval.
        sample: Queries that it was measured on.
        seconds: What all of this took.
    """

    kind: str
    asked: str
    reason: str
    rows: Count
    latency: float | None = None
    factory: str | None = None
    effort: _Some | None = None
    depth: _Some | None = None
    recall: _Share | None = None
    recall_bound: _Share | None = None
    sample: _Some | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Calibration(_Measured):
    """A score that a query and a text that do not belong together rarely reach.

    Args:
        threshold: The score.
        false_positive_rate: Share of the pairs that reach it.
        pairs: Pairs that were compared.
        texts: Texts that the index had.
        queries: What was asked: ``given`` queries, ``parts`` of texts, or ``texts``, as None in an earlier release.
    """

    threshold: Annotated[float, -1.001, 1.001]
    false_positive_rate: _Share
    pairs: Count
    texts: Count
    queries: Literal["given", "parts", "texts"] | None = None
