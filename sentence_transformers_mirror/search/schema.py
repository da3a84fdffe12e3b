"""What the manifest of an index may say. It may come from anybody, and its checksum proves nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

ENDINGS = {"vectors": "npy", "removed": "npy", "entries": "arrow", "words": "arrow", "faiss": "index", "draft": "json"}
_HEX = re.compile("[0-9a-f]{64}")


def file_name(kind: str) -> str:
    """The pattern of the names of a kind of file. Any other name could make us read a file outside the folder."""
    return rf"{kind}-[0-9a-f]{{16}}\.{ENDINGS[kind]}"


def check_manifest(index: dict[str, Any]) -> None:
    """Refuse what is no manifest, before a file is looked at.

    Raises:
        ValueError: If it is none, naming what is wrong.
    """
    _need(isinstance(index, dict), "it is no object")
    _each(index, "", rows=_whole(0), dimension=_whole(1, 2**20), next_id=_whole(0, 10**4000))
    _each(index, "", fingerprint=_optional(_text), model=_optional(_text), dimensions=_optional(_whole(1)), tag=_text)
    _need(isinstance(index.get("segments"), list), "segments are no list")
    for record in index["segments"]:
        _each(record, "a segment's ", rows=_whole(1), vectors=_file("vectors"), entries=_file("entries"))
        if record.get("words") is not None:  # which version 1 had not
            _check_words(record["words"], record["rows"])
    rows = sum(record["rows"] for record in index["segments"])
    _need(rows == index["rows"], "rows are not those of the segments")
    language, passages = index.get("language"), index.get("passages")
    _each({"language": language, "passages": passages}, "", language=_optional(_text), passages=_optional(_whole(1)))
    for part in ("removed", "structure", "calibration"):
        _need(part in index, f"{part} is missing")
    if index["removed"] is not None:
        _each(index["removed"], "removed ", file=_file("removed"), rows=_whole(0, rows))
    _each(index.get("choice"), "choice ", kind=_text, recall=_number(0, 1), max_latency=_number(0))
    _each(index["choice"], "choice ", max_memory=_number(0))
    _need(set(index["choice"]) == {"kind", "recall", "max_latency", "max_memory"}, "choice has other keys")
    _need(0 < index["choice"]["recall"] < 1, "choice recall is not between 0 and 1")
    if index["calibration"] is not None:
        _each(index["calibration"], "calibration ", threshold=_number(-1.001, 1.001), pairs=_whole(0), texts=_whole(0))
        _each(index["calibration"], "calibration ", false_positive_rate=_number(0, 1))
        _need(
            index["calibration"].get("queries", "texts") in ("given", "parts", "texts"), "calibration queries are odd"
        )
    _check_report(index.get("report"), rows)
    if index["structure"] is not None:
        _check_structure(index["structure"], index["report"], rows)


def _check_words(words: Any, rows: int) -> None:
    _each(words, "words ", reader=_text, parts=lambda parts: isinstance(parts, list))
    for part in words["parts"]:
        _each(part, "a part of words ", rows=_whole(1, rows), file=_file("words"))
    _need(sum(part["rows"] for part in words["parts"]) == rows, "rows of words are not those of the segment")


def _check_report(report: Any, rows: int) -> None:
    _need(isinstance(report, dict), "report is no object")
    if not report:
        return
    _each(report, "report ", kind=_text, asked=_text, reason=_text, rows=_whole(0, rows), seconds=_number(0))
    if "latency" in report:
        _each(report, "report ", latency=_number(0))
    if "recall" in report:
        _each(report, "report ", factory=_text, effort=_whole(1), depth=_whole(1), sample=_whole(1))
        _each(report, "report ", recall=_number(0, 1), recall_bound=_number(0, 1))


def _check_structure(structure: Any, report: dict[str, Any], rows: int) -> None:
    what = "structure "
    _each(
        structure, what, file=_file("faiss"), covered=_whole(1, rows), effort=_whole(1, 2**31), depth=_whole(1, 10**4)
    )
    _need(set(structure) == {"file", "covered", "held_out", "effort", "depth"}, "structure has other keys")
    held_out = structure["held_out"]
    inside = _whole(0, structure["covered"] - 1)
    _need(isinstance(held_out, list) and all(map(inside, held_out)), "held_out names no rows of the structure")
    _need(held_out == sorted(set(held_out)), "held_out is not in ascending order")  # and so names no row twice
    _need(report.get("sample") == len(held_out) and "recall" in report, "report is not that of the structure")


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _each(found: Any, what: str, **wanted: Callable[[Any], bool]) -> None:
    _need(isinstance(found, dict), f"{what or 'it '}is no object")
    for key, fits in wanted.items():
        wrong = "is no file of an index" if key in ("file", "vectors", "entries") else "is missing or of another kind"
        _need(key in found and fits(found[key]), f"{what}{key} {wrong}")


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 10_000


def _whole(least: int, most: int = 2**63 - 1) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: (
        type(value) in (int, float)
        and (type(value) is int or math.isfinite(value))
        and least <= value <= most
        and value < 1e300
    )


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _file(kind: str) -> Callable[[Any], bool]:
    def fits(record: Any) -> bool:
        if not isinstance(record, list) or len(record) != 3:
            return False
        name, size, checksum = record
        return (
            isinstance(name, str)
            and re.fullmatch(file_name(kind), name) is not None
            and _whole(0)(size)
            and isinstance(checksum, str)
            and _HEX.fullmatch(checksum) is not None
        )

    return fits
