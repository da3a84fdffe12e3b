"""The manifest of an index: everything small. Its keys, which docs/index-format.md explains, are known here alone."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.search.choosing import Choice
from sentence_transformers_mirror.search.reports import Calibration, Count, Report
from sentence_transformers_mirror.search.words import check_language

FORMAT = "sentence-transformers-mirror index"
VERSION = 2
MANIFEST = "manifest.json"
CURE = "restore the folder from a copy or build the index again"
ENDINGS = {"vectors": "npy", "removed": "npy", "entries": "arrow", "words": "arrow", "faiss": "index", "draft": "json"}
_Some = Annotated[int, 1, 2**63 - 1]


class File(NamedTuple):
    """A file of an index: its name, its size in bytes and its SHA-256."""

    name: str
    size: int
    checksum: str


@dataclass(frozen=True)
class PostingsFile:
    """The words of consecutive rows."""

    rows: _Some
    file: Annotated[File, "words"]


@dataclass(frozen=True)
class WordsFiles:
    """The words of a segment, and what made them."""

    reader: str
    parts: tuple[PostingsFile, ...]


@dataclass(frozen=True)
class SegmentFiles:
    """A segment; version 1 of the format had no words."""

    rows: _Some
    vectors: Annotated[File, "vectors"]
    entries: Annotated[File, "entries"]
    words: WordsFiles | None = None

    @property
    def of_rows(self) -> tuple[File, File]:
        """Those that cannot be made anew."""
        return self.vectors, self.entries


@dataclass(frozen=True)
class RemovedFile:
    file: Annotated[File, "removed"]
    rows: Count


@dataclass(frozen=True)
class StructureFile:
    """A structure of FAISS over the first rows, of which those that were held out come last."""

    file: Annotated[File, "faiss"]
    covered: _Some
    held_out: list[Count]
    effort: Annotated[int, 1, 2**31]
    depth: Annotated[int, 1, 10**4]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index is, in the order in which it is written; version 1 had neither language nor passages."""

    rows: Count
    dimension: Annotated[int, 1, 2**20]
    fingerprint: str | None
    model: str | None
    dimensions: _Some | None
    segments: tuple[SegmentFiles, ...]
    removed: RemovedFile | None
    structure: StructureFile | None
    choice: Choice
    report: Report | None
    calibration: Calibration | None
    next_id: Annotated[int, 0, 2**14_000]
    language: str | None = None
    passages: _Some | None = None
    tag: str

    @classmethod
    def of(cls, index: dict[str, Any]) -> Manifest:
        """What `read_index` gives, after every value was looked at: the checksum of somebody else proves nothing."""
        _need(isinstance(index.get("report"), dict), "index.report is no object")
        made: Manifest = _read(cls, {**index, "report": index["report"] or None}, "index")
        _need(made.rows == sum(segment.rows for segment in made.segments), "rows are not those of the segments")
        for segment in made.segments:
            told = segment.words is None or sum(part.rows for part in segment.words.parts) == segment.rows
            _need(told, "rows of words are not those of the segment")
        report, structure = made.report, made.structure
        if report is not None:
            tuned = (report.factory, report.effort, report.depth, report.recall, report.recall_bound, report.sample)
            _need(len({value is None for value in tuned}) == 1, "report is there in parts")
        for part in (made.removed, report):
            _need(part is None or part.rows <= made.rows, "more rows were removed or measured than there are")
        if structure is not None:
            held_out, covered = structure.held_out, structure.covered
            _need(covered <= made.rows and all(row < covered for row in held_out), "structure covers other rows")
            _need(held_out == sorted(set(held_out)), "held_out is not in ascending order")  # and names no row twice
            _need(
                report is not None and report.sample == len(held_out) < covered, "report is not that of the structure"
            )
        check_language(made.language)
        return made

    def files(self) -> Iterator[File]:
        """All files but the manifest itself."""
        for segment in self.segments:
            yield from segment.of_rows
            yield from (part.file for part in segment.words.parts) if segment.words is not None else ()
        yield from (part.file for part in (self.removed, self.structure) if part is not None)

    def written(self) -> bytes:
        """The file ``manifest.json``."""
        report = {} if self.report is None else self.report.as_dict()
        calibration = None if self.calibration is None else self.calibration.as_dict()
        index = {**asdict(self), "report": report, "calibration": calibration}
        whole = {"format": FORMAT, "version": VERSION, "checksum": checksum(index), "index": index}
        return json.dumps(whole, indent=1).encode()


def read_index(folder: str | Path) -> dict[str, Any]:
    """What the manifest of a folder says of the index, after its checksum was found to be right."""
    file = Path(folder) / MANIFEST
    try:
        size_of(file)
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenIndexError(f"{folder} holds no index, there is no {file.name} in it: check the path.") from None
    except OSError as error:
        raise BrokenIndexError(f"{file} cannot be read ({error.strerror or error}): {CURE}.") from None
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        raise BrokenIndexError(f"{file} is damaged or no part of an index, it is not valid JSON: {CURE}.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BrokenIndexError(f"{file} belongs to something else than an index of this package: check the path.")
    version = manifest.get("version")
    if isinstance(version, int) and version > VERSION:
        raise BrokenIndexError(
            f"{file} is of format version {version} and this release reads up to {VERSION}: "
            "upgrade sentence-transformers-mirror."
        )
    index: Any = manifest.get("index")
    known = version in range(1, VERSION + 1) and isinstance(index, dict) and isinstance(index.get("tag"), str)
    if not known or manifest.get("checksum") != checksum(index):
        raise BrokenIndexError(f"{file} is damaged, its checksum does not match: {CURE}.")
    return index


def tag_of(folder: str | Path) -> str | None:
    """The tag of the save that lies in a folder, which is another one for every save; None if there is none."""
    return read_index(folder)["tag"] if Path(folder, MANIFEST).exists() else None


def checksum(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def size_of(file: Path) -> int:
    """The bytes of a regular file, or of a link to one: reading anything else may wait for ever."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BrokenIndexError(f"{file} is no regular file: {CURE}.")
    return found.st_size


def file_name(kind: str) -> str:
    """The pattern of the names of a kind of file. Any other name could make us read a file outside the folder."""
    return rf"{kind}-[0-9a-f]{{16}}\.{ENDINGS[kind]}"


_types = cache(partial(get_type_hints, include_extras=True))


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _read(kind: Any, value: Any, what: str) -> Any:
    """A value of JSON as a type has it; a key may be missing that has a default, and others that it has count not."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _read(inner[0], value, what)
    if origin in (tuple, list):
        _need(isinstance(value, list), f"{what} is no list")
        return origin(_read(inner[0], part, f"{what}[{number}]") for number, part in enumerate(value))
    if is_dataclass(kind):
        _need(isinstance(value, dict), f"{what} is no object")
        optional = {field.name for field in fields(kind) if field.default is not MISSING}
        record: Any = kind
        types = {name: one for name, one in _types(record).items() if name in value or name not in optional}
        return record(**{name: _read(one, value.get(name, MISSING), f"{what}.{name}") for name, one in types.items()})
    if inner and inner[0] is File:
        fits = isinstance(value, list) and len(value) == 3 and list(map(type, value)) == [str, int, str]
        fits = fits and value[1] >= 0 and re.fullmatch("[0-9a-f]{64}", value[2]) is not None
        _need(fits and re.fullmatch(file_name(inner[1]), value[0]) is not None, f"{what} is no file of an index")
        return File(*value)
    if origin is Annotated:
        value = _read(inner[0], value, what)
        _need(inner[1] <= value <= inner[2], f"{what} is out of its range")
    elif origin is Literal:
        _need(value in inner, f"{what} is none of {inner}")
    elif kind is float:
        _need(type(value) in (int, float) and -1e300 < value < 1e300, f"{what} is missing or no number")
    else:
        _need(type(value) is kind and (kind is int or len(value) < 10_000), f"{what} is missing or no {kind.__name__}")
    return value
