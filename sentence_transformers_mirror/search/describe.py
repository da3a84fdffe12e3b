"""What there is to know about an index in words."""

from __future__ import annotations

from sentence_transformers_mirror.search.choosing import Choice
from sentence_transformers_mirror.search.state import State

_ASKED = {"given": "a given query and a text", "parts": "a part of a text and another text", "texts": "two texts"}


def describe(state: State, choice: Choice) -> str:
    """A few lines: what there is, how it is searched, why, and what was measured."""
    snapshot = state.snapshot
    rows, report, calibration = len(snapshot.removed), snapshot.report, snapshot.calibration
    lines = [
        f"{snapshot.count:,} texts, {state.dimension} dimensions, {4 * rows * state.dimension / 2**20:,.1f} MiB of "
        f"vectors, {rows - snapshot.size:,} removed rows to compact",
        f"model: {state.model.model or 'not named'}, fingerprint {(state.model.fingerprint or 'unknown')[:16]}",
    ]
    if report is not None:
        lines.append(f"kind: {report.kind} (asked for {report.asked}): {report.reason}")
        if report.recall is None:
            lines.append("recall: 1, the search is exact")
        else:
            lines.append(
                f"recall@10: {report.recall:.3f}, at least {report.recall_bound:.3f} (one-sided 95% interval, "
                f"{report.sample} texts of the index as queries, their own hit not counted; wanted {choice.recall:g})"
            )
            lines.append(
                f"structure: {report.factory}, effort {report.effort}, {report.depth} candidates a hit, "
                f"built over {report.rows:,} rows in {report.seconds:.1f} s"
            )
    stemmed = f"stemmed in {snapshot.language}" if snapshot.language else "not stemmed, no language was given"
    lines.append(f"words: {stemmed}")
    if snapshot.passages is not None:
        lines.append(f"passages: {snapshot.size:,}, of at most {snapshot.passages} tokens")
    if calibration is None:
        lines.append("threshold: not calibrated")
    else:
        lines.append(
            f"threshold: {calibration.threshold:.3f} is exceeded by {calibration.false_positive_rate:g} of random "
            f"pairs of {_ASKED[calibration.queries or 'texts']} ({calibration.pairs:,} pairs, when there were "
            f"{calibration.texts:,} texts)"
        )
    return "\n".join(lines)
