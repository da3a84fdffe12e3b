"""The facts about an index in words."""

from __future__ import annotations

from typing import Any

_ASKED = {"given": "a given query and a text", "parts": "a part of a text and another text", "texts": "two texts"}


def describe(facts: dict[str, Any]) -> str:
    """A few lines from what ``SearchIndex.facts`` gives: what there is, how it is searched, why, what was measured."""
    report, calibration = facts["structure"], facts["calibration"]
    lines = [
        f"{facts['texts']:,} texts, {facts['dimension']} dimensions, {facts['vector_bytes'] / 2**20:,.1f} MiB of "
        f"vectors, {facts['removed']:,} removed rows to compact",
        f"model: {facts['model'] or 'not named'}, fingerprint {(facts['fingerprint'] or 'unknown')[:16]}",
    ]
    if report:
        lines.append(f"kind: {report['kind']} (asked for {report['asked']}): {report['reason']}")
        if "recall" in report:
            lines.append(
                f"recall@10: {report['recall']:.3f}, at least {report['recall_bound']:.3f} (one-sided 95% "
                f"interval, {report['sample']} texts of the index as queries, their own hit not counted; wanted "
                f"{facts['choice']['recall']:g})"
            )
            lines.append(
                f"structure: {report['factory']}, effort {report['effort']}, {report['depth']} candidates a hit, "
                f"built over {report['rows']:,} rows in {report['seconds']:.1f} s"
            )
        else:
            lines.append("recall: 1, the search is exact")
    stemmed = f"stemmed in {facts['language']}" if facts["language"] else "not stemmed, no language was given"
    lines.append(f"words: {stemmed}")
    if facts["passages"] is not None:
        lines.append(f"passages: {facts['passages']['rows']:,}, of at most {facts['passages']['tokens']} tokens")
    if calibration is None:
        lines.append("threshold: not calibrated")
    else:
        lines.append(
            f"threshold: {calibration['threshold']:.3f} is exceeded by {calibration['false_positive_rate']:g} of "
            f"random pairs of {_ASKED[calibration.get('queries', 'texts')]} ({calibration['pairs']:,} pairs, when "
            f"there were {calibration['texts']:,} texts)"
        )
    return "\n".join(lines)
