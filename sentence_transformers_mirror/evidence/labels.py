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
from itertools import zip_longest
from pathlib import Path

from sentence_transformers_mirror.printable import quoted

Row = tuple[str, str, float]


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
    """Mentions and the names of a dictionary; a name is right for a mention if they share an id.

    Args:
        mentions: Texts.
        gold: The ids of each; several where a mention means several concepts, or one of several.
        names: Texts.
        ids: The ids of each; several where entries were merged.
    """

    mentions: list[str]
    gold: list[frozenset[str]]
    names: list[str]
    ids: list[frozenset[str]]

    def __len__(self) -> int:
        return len(self.mentions)


def read_pairs(folder: str | Path, name: str) -> Pairs | None:
    """One of `PAIR_SETS`, or None if none of its files is in the folder.

    Raises:
        ValueError: If a file has a line with a wrong number of columns, an empty text or a score that is no number,
            naming file and line; or there are fewer than three pairs, or all have the same score.
    """
    for pattern, read in PAIR_SETS[name]:
        paths = _find(folder, pattern)
        if paths:
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
    """One of `LINKING_SETS`, or None if its files are not in the folder.

    Raises:
        ValueError: If a file has a line with a wrong number of columns or an empty text, or a mention has no id that
            the dictionary has, naming file and line.
    """
    mention_files, dictionary_files, read_mentions, read_dictionary = LINKING_SETS[name]
    mentions, dictionaries = _find(folder, mention_files), _find(folder, dictionary_files)
    if not mentions or not dictionaries:
        return None
    entries = [entry for path in dictionaries for entry in read_dictionary(path)]
    known = frozenset().union(*(ids for _, ids in entries))
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
    return Linking(texts, gold, [name for name, _ in entries], [ids for _, ids in entries])


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


def _pair(place: str, first: str, second: str, score: str) -> Row:
    if not first.strip() or not second.strip():
        raise ValueError(f"{place} has an empty text: drop the line.")
    try:
        return first, second, float(score)
    except ValueError:
        raise ValueError(f"{place} has the score {quoted(score, 40)}, which is no number: repair the line.") from None


def _table(
    path: Path, columns: Sequence[str], wanted: Callable[[dict[str, str]], bool] | None = None
) -> Iterator[Row]:
    """Rows of a table with a header; columns are those of the texts and of the score."""
    lines = _cells(path, "\t")
    header = next(lines, ("", []))[1]
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r} but {', '.join(header)}: check what the file is.")
    for place, cells in lines:
        row = dict(zip(header, cells, strict=True))
        if wanted is None or wanted(row):
            yield _pair(place, *(row[name] for name in columns))


def _plain(path: Path) -> Iterator[Row]:
    names = ("word1", "word2") if "sim" in path.name or "rareword" in path.name else ("sentence1", "sentence2")
    return _table(path, (*names, "score"))


def _sent_eval(path: Path) -> Iterator[Row]:
    """``STS.input.NAME.txt``, two texts a line, with ``STS.gs.NAME.txt`` beside it; pairs without a score are none."""
    gold = path.with_name(path.name.replace("STS.input.", "STS.gs."))
    if not gold.exists():
        raise ValueError(f"{path} has no {gold.name} beside it with the scores: add it.")
    for texts, score in zip_longest(_lines(path), _lines(gold)):
        if texts is None or score is None:
            raise ValueError(f"{path} and {gold.name} have different numbers of lines: take both of one release.")
        cells = texts[1].split("\t")
        if len(cells) < 2:
            raise ValueError(f"{texts[0]} has {len(cells)} columns and not 2: repair the line.")
        if score[1].strip():
            yield _pair(texts[0], cells[0], cells[1], score[1])


def _sts_benchmark(path: Path) -> Iterator[Row]:
    """Genre, file, year, number, score, two texts and sometimes their sources, without a header."""
    return (_pair(place, cells[5], cells[6], cells[4]) for place, cells in _cells(path, "\t", least=7))


def _sick(path: Path, part: str | None = None) -> Iterator[Row]:
    wanted = None if part is None else lambda row: row["SemEval_set"] == part
    return _table(path, ("sentence_A", "sentence_B", "relatedness_score"), wanted)


def _multi_simlex(path: Path, language: str) -> Iterator[Row]:
    """``translation.csv`` has the words of all languages and ``scores.csv`` beside it the means of the annotators."""
    scores = path.with_name("scores.csv")
    if not scores.exists():
        raise ValueError(f"{path} has no {scores.name} beside it with the scores: add it.")
    with path.open(encoding="utf-8-sig", newline="") as words, scores.open(encoding="utf-8-sig", newline="") as means:
        for number, (row, mean) in enumerate(zip_longest(csv.DictReader(words), csv.DictReader(means)), start=2):
            place = f"{path}, line {number}"
            if row is None or mean is None:
                raise ValueError(
                    f"{path} and {scores.name} have different numbers of lines: take both of one release."
                )
            first, second, score = row.get(f"{language} 1"), row.get(f"{language} 2"), mean.get(language)
            if first is None or second is None or score is None:
                raise ValueError(f"{place} has no columns for {language}: repair the line.")
            yield _pair(place, first, second, score)


def _ids(text: str) -> frozenset[str]:
    # Mentions name the vocabulary of an id (OMIM:217000, MESH:D007674) and dictionaries do not, or both do.
    return frozenset(part.rsplit(":", 1)[-1] for part in re.split(r"[|¦+]", text.strip()) if part)


def _mention_table(path: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    lines = _cells(path, "\t")
    header = next(lines, ("", []))[1]
    for place, cells in lines:
        row = dict(zip(header, cells, strict=True))
        yield _entry(place, row.get("mention", ""), row.get("cui", ""))


def _concepts(path: Path) -> Iterator[tuple[str, str, frozenset[str]]]:
    """BioSyn's ``pmid||start|end||type||mention||cui``."""
    return (_entry(place, cells[3], cells[4]) for place, cells in _cells(path, "||", least=5))


def _dictionary_table(path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    lines = _cells(path, "\t")
    next(lines, None)
    return (_entry(place, cells[1], cells[0])[1:] for place, cells in lines)


def _dictionary(path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """BioSyn's ``cui||name``."""
    return (_entry(place, cells[1], cells[0])[1:] for place, cells in _cells(path, "||", least=2))


def _entry(place: str, text: str, ids: str) -> tuple[str, str, frozenset[str]]:
    if not text.strip() or not _ids(ids):
        raise ValueError(f"{place} has an empty text or no id: drop the line.")
    return place, text, _ids(ids)


def _year(year: str) -> list[tuple[str, Callable[[Path], Iterator[Row]]]]:
    return [(f"STS{year}.test.tsv", _plain), (f"STS{year}-en-test/STS.input.*.txt", _sent_eval)]


def _multi(language: str) -> list[tuple[str, Callable[[Path], Iterator[Row]]]]:
    return [
        (f"multisimlex.{language}.tsv", _plain),
        ("translation.csv", partial(_multi_simlex, language=language)),
    ]


# For each set the files it may lie in, the first that is there being read. A year's subsets are concatenated.
PAIR_SETS: dict[str, list[tuple[str, Callable[[Path], Iterator[Row]]]]] = {
    **{f"STS{year}": _year(year) for year in ("12", "13", "14", "15", "16")},
    "STS-B": [("STSB.test.tsv", _plain), ("sts-test.csv", _sts_benchmark)],
    "SICK-R": [
        ("SICK-R.test.tsv", _plain),
        ("SICK_test_annotated.txt", _sick),
        ("SICK_annotated.txt", partial(_sick, part="TEST")),
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
    "Multi-SimLex ENG": _multi("ENG"),
    "Multi-SimLex FRA": _multi("FRA"),
    "WordSim-353": [("wordsim353.tsv", _plain)],
    "RareWord": [("rareword2034.tsv", _plain)],
    "UMNSRS": [("umnsrs-sim.tsv", _plain)],
}

LINKING_SETS = {
    "NCBI disease dev": ("ncbi_disease.dev.tsv", "dictionary_medic_2012.tsv", _mention_table, _dictionary_table),
    "NCBI disease": ("processed_test/*.concept", "test_dictionary.txt", _concepts, _dictionary),
}
