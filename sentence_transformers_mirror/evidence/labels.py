"""Labelled sets as they lie on disk: pairs with a similarity, and mentions with the entry of a dictionary they mean.

Sets are looked for by the names of their files, in a folder and the folders in it, gzipped or not: as published
(SentEval's STS folders, STS-Benchmark, SICK, SimLex-999, Multi-SimLex, BioSyn's dictionaries and concept files) or as
plain tables with a header, ``score`` and ``sentence1``, ``sentence2`` or ``word1``, ``word2``.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from sentence_transformers_mirror.printable import quoted

Row = tuple[str, str, float]
Entry = tuple[str, str, frozenset[str]]  # place, text and ids


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts and how alike people find them, in the set's own scale."""

    first: list[str]
    second: list[str]
    scores: list[float]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Linking:
    """Mentions and the names of a dictionary; a name is right for a mention if they share an id."""

    mentions: list[str]
    gold: list[frozenset[str]]  # several ids where a mention means several concepts, or one of several
    names: list[str]
    ids: list[frozenset[str]]  # several where entries were merged

    def __len__(self) -> int:
        return len(self.mentions)


def read_pairs(folder: str | Path, name: str) -> Pairs | None:
    """One of `PAIR_SETS`, or None if none of its files is in the folder."""
    for pattern, read in PAIR_SETS[name]:
        if paths := _find(folder, pattern):
            rows = [row for path in paths for row in read(path)]
            where = f"{name} ({paths[0]})"
            if len(rows) < 3:
                raise ValueError(f"{where} has {len(rows)} pairs; a correlation needs three at least, add some.")
            first, second, scores = map(list, zip(*rows, strict=True))
            if len(set(scores)) == 1:
                raise ValueError(
                    f"All pairs of {where} have the score {scores[0]:g}; nothing correlates with a constant: repair "
                    "the column of scores."
                )
            return Pairs(first, second, scores)
    return None


def read_linking(folder: str | Path, name: str) -> Linking | None:
    """One of `LINKING_SETS`, or None if its files are not in the folder."""
    mention_files, dictionary_files, read_mentions, read_dictionary = LINKING_SETS[name]
    mentions, dictionaries = _find(folder, mention_files), _find(folder, dictionary_files)
    if not mentions or not dictionaries:
        return None
    entries = [entry for path in dictionaries for entry in read_dictionary(path)]
    known = frozenset().union(*(ids for *_, ids in entries))
    texts, gold = [], []
    for path in mentions:
        for place, text, ids in read_mentions(path):
            if known.isdisjoint(ids):
                raise ValueError(
                    f"{place}: no entry of {dictionaries[0].name} has one of the ids {', '.join(sorted(ids))} of "
                    f"{quoted(text)}; use the dictionary that the mentions were annotated with, or drop such lines."
                )
            texts.append(text)
            gold.append(ids)
    return Linking(texts, gold, [name for _, name, _ in entries], [ids for *_, ids in entries])


def _find(folder: str | Path, pattern: str) -> list[Path]:
    """The file of a name, or all files of a pattern that lie together; of several copies the first counts."""
    found = sorted(Path(folder).rglob(pattern)) or sorted(Path(folder).rglob(f"{pattern}.gz"))
    return [path for path in found if path.parent == found[0].parent]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place and content of each line."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}, line {number}", line.rstrip("\r\n")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read after line {number}: {error}.") from error


def _cells(path: Path, separator: str, least: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each line; all have as many as the first, or at least ``least``."""
    width = None
    for place, line in _lines(path):
        cells = line.split(separator)
        width = len(cells) if width is None else width
        if len(cells) < least if least else len(cells) != width:
            wanted = f"at least {least}" if least else width
            raise ValueError(f"{place} has {len(cells)} columns and not {wanted}: repair the line.")
        yield place, cells


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and cells of each line below a header, which must have the columns."""
    lines = _cells(path, "\t")
    header = next(lines, ("", []))[1]
    for name in columns:
        if name not in header:
            raise ValueError(f"{path} has no column {name!r} but {', '.join(header)}: check what the file is.")
    for place, cells in lines:
        yield place, dict(zip(header, cells, strict=True))


def _beside(path: Path, name: str, read: Callable[[Path], Iterator[Any]]) -> Iterator[tuple[Any, Any]]:
    """What two files say line by line, texts and their scores."""
    scores = path.with_name(name)
    if not scores.exists():
        raise ValueError(f"{path} has no {name} beside it with the scores: add it.")
    for both in zip_longest(read(path), read(scores)):
        if None in both:
            raise ValueError(f"{path} and {name} have different numbers of lines: take both of one release.")
        yield both


def _pair(place: str, first: str, second: str, score: str) -> Row:
    if not first.strip() or not second.strip():
        raise ValueError(f"{place} has an empty text: drop the line.")
    try:
        return first, second, float(score)
    except ValueError:
        raise ValueError(f"{place} has the score {quoted(score, 40)}, which is no number: repair the line.") from None


def _table(path: Path, columns: Sequence[str], **wanted: str) -> Iterator[Row]:
    """Rows of a table that have the cells that are wanted; columns are those of the texts and of the score."""
    for place, row in _rows(path, *columns, *wanted):
        if wanted.items() <= row.items():
            yield _pair(place, *(row[name] for name in columns))


def _plain(path: Path) -> Iterator[Row]:
    names = ("word1", "word2") if "sim" in path.name or "rareword" in path.name else ("sentence1", "sentence2")
    return _table(path, (*names, "score"))


_sick = partial(_table, columns=("sentence_A", "sentence_B", "relatedness_score"))


def _sent_eval(path: Path) -> Iterator[Row]:
    """``STS.input.NAME.txt``, two texts a line, with ``STS.gs.NAME.txt`` beside it; pairs without a score are none."""
    gold = path.name.replace("STS.input.", "STS.gs.")
    for (place, texts), (_, score) in _beside(path, gold, _lines):
        cells = texts.split("\t")
        if len(cells) < 2:
            raise ValueError(f"{place} has {len(cells)} columns and not 2: repair the line.")
        if score.strip():
            yield _pair(place, cells[0], cells[1], score)


def _sts_benchmark(path: Path) -> Iterator[Row]:
    """Genre, file, year, number, score, two texts and sometimes their sources, without a header."""
    return (_pair(place, cells[5], cells[6], cells[4]) for place, cells in _cells(path, "\t", least=7))


def _comma_separated(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            yield f"{path}, line {number}", row


def _multi_simlex(path: Path, language: str) -> Iterator[Row]:
    """``translation.csv`` has the words of all languages and ``scores.csv`` beside it the means of the annotators."""
    for (place, row), (_, mean) in _beside(path, "scores.csv", _comma_separated):
        cells = row.get(f"{language} 1"), row.get(f"{language} 2"), mean.get(language)
        if None in cells:
            raise ValueError(f"{place} has no columns for {language}: repair the line.")
        yield _pair(place, *cells)


def _entry(place: str, text: str, ids: str) -> Entry:
    # Mentions name the vocabulary of an id (OMIM:217000, MESH:D007674) and dictionaries do not, or both do.
    found = frozenset(part.rsplit(":", 1)[-1] for part in re.split(r"[|¦+]", ids.strip()) if part)
    if not text.strip() or not found:
        raise ValueError(f"{place} has an empty text or no id: drop the line.")
    return place, text, found


def _mention_table(path: Path) -> Iterator[Entry]:
    return (_entry(place, row.get("mention", ""), row.get("cui", "")) for place, row in _rows(path))


def _dictionary_table(path: Path) -> Iterator[Entry]:
    lines = islice(_cells(path, "\t"), 1, None)
    return (_entry(place, names[0] if names else "", ids) for place, (ids, *names) in lines)


def _concepts(path: Path) -> Iterator[Entry]:
    """BioSyn's ``pmid||start||end||type||mention||cui``."""
    return (_entry(place, cells[3], cells[4]) for place, cells in _cells(path, "||", least=5))


def _dictionary(path: Path) -> Iterator[Entry]:
    """BioSyn's ``cui||name``."""
    return (_entry(place, cells[1], cells[0]) for place, cells in _cells(path, "||", least=2))


# For each set the files it may lie in, the first that is there being read. A year's subsets are concatenated.
PAIR_SETS: dict[str, list[tuple[str, Callable[[Path], Iterator[Row]]]]] = {
    **{
        f"STS{year}": [(f"STS{year}.test.tsv", _plain), (f"STS{year}-en-test/STS.input.*.txt", _sent_eval)]
        for year in range(12, 17)
    },
    "STS-B": [("STSB.test.tsv", _plain), ("sts-test.csv", _sts_benchmark)],
    "SICK-R": [
        ("SICK-R.test.tsv", _plain),
        ("SICK_test_annotated.txt", _sick),
        ("SICK_annotated.txt", partial(_sick, SemEval_set="TEST")),
    ],
    "STS-B dev": [("STSB.dev.tsv", _plain), ("sts-dev.csv", _sts_benchmark)],
    "STS-B train": [("STSB.train.tsv", _plain), ("sts-train.csv", _sts_benchmark)],
    "SICK-R dev": [("SICK-R.dev.tsv", _plain), ("SICK_trial.txt", _sick)],
    "SICK-R train": [("SICK-R.train.tsv", _plain), ("SICK_train.txt", _sick)],
    "STS17 ar-ar": [("STS17.track1.ar-ar.tsv", _plain)],
    "STS17 es-es": [("STS17.track3.es-es.tsv", _plain)],
    "BIOSSES": [("biosses.tsv", _plain)],
    "SimLex-999": [
        ("simlex999.tsv", _plain),
        ("SimLex-999.txt", partial(_table, columns=("word1", "word2", "SimLex999"))),
    ],
    **{
        f"Multi-SimLex {language}": [
            (f"multisimlex.{language}.tsv", _plain),
            ("translation.csv", partial(_multi_simlex, language=language)),
        ]
        for language in ("ENG", "FRA")
    },
    "WordSim-353": [("wordsim353.tsv", _plain)],
    "RareWord": [("rareword2034.tsv", _plain)],
    "UMNSRS": [("umnsrs-sim.tsv", _plain)],
}

LINKING_SETS = {
    "NCBI disease dev": ("ncbi_disease.dev.tsv", "dictionary_medic_2012.tsv", _mention_table, _dictionary_table),
    "NCBI disease": ("processed_test/*.concept", "test_dictionary.txt", _concepts, _dictionary),
}
