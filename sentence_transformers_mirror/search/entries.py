"""What goes into an index: texts with ids and metadata, read in windows and checked before anything is computed."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from sentence_transformers_mirror.printable import printable, quoted
from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.search.segments import CUT, SCHEMA
from sentence_transformers_mirror.texts import files

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_HALF = re.compile(r"\\ud[89a-f]")  # how JSON writes a half of a pair
_DEEPEST = 64  # lists and dictionaries within each other
_LONGEST_ID = 14_000  # bits: Python reads no longer numbers


@dataclass(frozen=True)
class Window:
    """Consecutive entries."""

    texts: list[str]
    ids: list[int | str] | None  # None where they are to be numbered
    metadata: list[str | None]  # as JSON
    spans: list[list[tuple[int, int]]] | None = None  # of the passages of each text, where texts are cut

    @property
    def passages(self) -> list[str]:
        """What is embedded: a text per entry, or its passages, one after the other."""
        if self.spans is None:
            return self.texts
        return [text[low:high] for text, spans in zip(self.texts, self.spans, strict=True) for low, high in spans]

    def table(self, ids: list[int | str]) -> pa.Table:
        columns = [json.dumps(item) for item in ids], self.texts, self.metadata
        if self.spans is None:
            return pa.table(list(columns), schema=SCHEMA)
        rows = [
            (item, None if number else text, extra, number, *span)
            for item, text, extra, spans in zip(*columns, self.spans, strict=True)
            for number, span in enumerate(spans)
        ]
        return pa.table(list(map(list, zip(*rows, strict=True))), schema=CUT)


def windows(
    texts: Iterable[str] | Dataset | Path,
    ids: Iterable[int | str] | None,
    metadata: Iterable[Mapping[str, Any] | None] | None,
    size: int,
) -> Iterator[Window]:
    """Read and check so many entries at a time, so that a corpus need not fit memory; as ``SearchIndex.build``."""
    source, read, more = iter(_strings(texts)), 0, True
    columns: dict[str, Iterator[Any]] = {}
    for name, given in (("ids", ids), ("metadata", metadata)):
        if given is not None:
            if isinstance(given, Mapping) or not isinstance(given, Iterable):
                raise TypeError(f"{name} must be a list, one per text, not one {type(given).__name__}.")
            columns[name] = iter(given)
    while more:
        taken = list(itertools.islice(source, size))
        more = len(taken) == size
        for position, text in enumerate(taken, start=read):
            check_text(text, f"texts[{position}]")
        extra = {name: list(itertools.islice(column, len(taken))) for name, column in columns.items()}
        for name, values in extra.items():
            if len(values) < len(taken):
                texts_read = f"{'at least ' if more else ''}{read + len(taken)}"
                raise ValueError(
                    f"There are {read + len(values)} {name} for {texts_read} texts: pass one per text, or none at all."
                )
        if taken:
            yield Window(
                taken,
                list(map(check_id, extra["ids"])) if ids is not None else None,
                list(map(_json, extra["metadata"])) if metadata is not None else [None] * len(taken),
            )
        read += len(taken)
    for name, column in columns.items():
        for _ in column:
            raise ValueError(f"There are more than {read} {name} for {read} texts: pass one per text, or none at all.")


def check_text(text: object, what: str) -> None:
    """Refuse what is no text to search for or in, with a TypeError or a ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is {quoted(text)} and no string: leave it out or convert it.")
    if not text.strip():
        raise ValueError(f"{what} is blank, and would match anything: leave it out.")
    check_unicode(text, what)


def check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what} is {quoted(text)}, which holds half a character (a lone surrogate): repair it."
        ) from None


def check_id(item: object) -> int | str:
    """An id as a plain int or str, as it will be given back."""
    item = plain(item)
    if not isinstance(item, (int, str)) or isinstance(item, bool):
        raise TypeError(f"The id {quoted(item)} is neither int nor str: convert it.")
    if isinstance(item, str):
        check_unicode(item, "The id")
        return str(item)
    if item.bit_length() > _LONGEST_ID:
        raise ValueError(f"An id of {item.bit_length():,} bits is too long: pass it as a shorter string.")
    return int(item)


def check_new(ids: Iterable[int | str], seen: set[int | str]) -> None:
    """Refuse ids that were seen before; adds the new ones to those."""
    for item in ids:
        if item in seen:
            raise ValueError(f"The id {quoted(item)} is there twice: make the ids different.")
        seen.add(item)


def _json(metadata: Mapping[str, Any] | None) -> str | None:
    if metadata is None:
        return None
    with suppress(TypeError, ValueError, RecursionError):
        text = json.dumps(metadata, allow_nan=False, default=_plain_number)
        back = json.loads(text)
        if isinstance(metadata, dict) and back == metadata and not _too_deep(text, back):
            if _HALF.search(text):
                json.dumps(back, ensure_ascii=False).encode()
            return text
    raise TypeError(
        f"The metadata {quoted(metadata, 80)} would not come back as it is: pass a dictionary with strings as keys "
        "and strings, finite numbers, bools, None, lists and dictionaries as values."
    )


def _plain_number(value: Any) -> Any:
    found = plain(value)
    if type(found) not in (int, float, bool, str):
        raise TypeError
    return found


def _too_deep(text: str, value: Any) -> bool:
    """Whether lists and dictionaries lie in each other so deeply that a later reader may give up."""
    if text.count("[") + text.count("{") <= _DEEPEST:
        return False
    layer = [value]
    for _ in range(_DEEPEST + 1):
        inner = (part for one in layer for part in (one.values() if isinstance(one, dict) else one))
        layer = [part for part in inner if isinstance(part, (dict, list))]
    return bool(layer)


def _strings(texts: Iterable[str] | Dataset | Path) -> Iterable[str]:
    if isinstance(texts, (str, Path)):
        return columns(Path(texts))[0]
    files.refuse_no_texts(texts)
    names = getattr(texts, "column_names", None)  # of a datasets.Dataset, without importing datasets for all others
    if names is not None:
        if "text" not in names:
            raise ValueError(f"The dataset has no column 'text' but {names}: pass dataset[column].")
        return (row["text"] for row in cast("Dataset", texts).select_columns(["text"]))
    return texts


def columns(
    path: Path,
    text: str | None = None,
    item: str | None = None,
    metadata: Sequence[str] = (),
    skipped: list[str] | None = None,
) -> tuple[Iterator[str], Iterator[int | str] | None, Iterator[dict[str, Any]] | None]:
    """Texts, ids and metadata of a file by the names of its columns, read as they are asked for.

    Rows without a text are left out; ``skipped`` receives where they are, and without it a warning is logged.
    """
    names, rows = files.column_names(path, files.read_rows(path))
    first = next(rows, None)
    if first is None:
        return iter(()), None, None
    for name in (text, item, *metadata):
        if name is not None and name not in names:
            there = ", ".join(map(printable, names))
            raise ValueError(f"{str(path)!r} has no column {name!r}; the columns are {there}.")
    others = {item, *metadata}
    strings = [name for name in files.string_columns(path, first[1]) if name not in others]
    text = files.text_column(names, strings, text)
    convert = files.typed if files.has_cells(path) else (lambda value: value)

    def checked() -> Iterator[tuple[str, Any, dict[str, Any]]]:
        blank = [] if skipped is None else skipped
        for place, row in itertools.chain([first], rows):
            found = row.get(text)
            if found is None or (isinstance(found, str) and not found.strip()):
                blank.append(place)
                continue
            extra = {name: convert(row.get(name)) for name in metadata}
            number = None if item is None else convert(row.get(item))
            try:
                check_text(found, f"column {text!r}")
                if item is not None:
                    if number is None or number == "":
                        raise ValueError(f"column {item!r} is empty and holds no id.")
                    check_id(number)
                if metadata:
                    _json(extra)
            except (TypeError, ValueError) as error:
                # A cell of a file is a value, whatever is wrong with it.
                raise ValueError(f"{place.capitalize()} of {str(path)!r}: {error}") from None
            yield found, number, extra
        if blank and skipped is None:
            logger.warning(f"{len(blank):,} rows of {str(path)!r} have no text and are left out, first {blank[0]}.")

    texts, ids, extra = (map(itemgetter(place), copy) for place, copy in enumerate(itertools.tee(checked(), 3)))
    return texts, None if item is None else ids, extra if metadata else None
