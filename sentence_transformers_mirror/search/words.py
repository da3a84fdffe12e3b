"""Search by words: BM25 over postings, which are a cache over the texts as FAISS's structure is one over the vectors.

Postings say which rows hold a word how often. They belong to a segment, are made once and never change; what does
change with every added or removed text, the rarity of words and the mean length, is worked out when a snapshot is
first asked. So scores are exact after any change, and no text is read twice.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sentence_transformers_mirror.printable import quoted

# As in Lucene and bm25s: how soon repetition stops to count, and how much the length of a text does.
K1, B = 1.5, 0.75
# Letters, marks, numbers and "_" make words; without marks, Hindi falls to pieces. Kana and Han are not spaced: every
# sign is a word. Arrow splits columns twice as fast as Python, and Python a query without building an automaton.
_GAPS = r"[^\pL\pM\pN_]+"
_SIGNS = "\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_SIGN = re.compile(f"([{_SIGNS}])")
_STATION = 16  # every so many terms one is kept as a string: to read one out of Arrow takes longer than to compare ten
_BLOCK = 256  # rows
_COMMON = 16  # a word in more than a sixteenth of the texts: its scores are kept as a column of all rows, for
_COLUMNS = 32  # so many words; most queries look only a few rows up in it
_LARGE = 10_000  # rows, below which lists are as fast as columns
_ROUNDED = 2e-7  # more than an addition in float32 and what is added can be off, as a share of the sum
_PART = 2**24  # bytes of text that are read at a time, to bound memory


def check_language(language: str | None) -> str | None:
    """Refuse a language without a stemmer with a ValueError."""
    if language is None:
        return None
    import Stemmer  # not there on machines that only train

    if language not in (known := sorted(set(Stemmer.algorithms()))):
        raise ValueError(
            f"There is no stemmer for the language {quoted(language)}: choose one of {', '.join(known)}, or None."
        )
    return language


def reader(language: str | None) -> str:
    """What made postings; those of another are made anew, since stemmers change."""
    if language is None:
        return "1"
    import Stemmer

    return f"1 {language} {Stemmer.version()}"


def terms(texts: pa.Array | pa.ChunkedArray, language: str | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Words of texts: letters, marks, numbers and underscores in a row, in NFKC, case folded, stemmed in a language.

    Gives for each word in the order of the texts the number of its text and of its term, int32; and the terms, sorted.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = pa.concat_arrays([pa.array([], texts.type), *texts.chunks])
    texts = pc.replace_substring_regex(texts, pattern=_SIGN.pattern, replacement=r" \1 ")
    split = pc.utf8_split_whitespace(pc.replace_substring_regex(texts, pattern=_GAPS, replacement=" "))
    rows = pc.list_parent_indices(split).to_numpy(zero_copy_only=False).astype(np.int32)
    found = pc.list_flatten(split).dictionary_encode()
    del texts, split  # words take many times the memory of their text
    stem = _stemmer(language)
    spelled = [stem(unicodedata.normalize("NFKC", word).casefold()) for word in found.dictionary.to_pylist()]
    distinct = sorted(set(spelled) - {""})  # what is left where a text begins or ends with a gap
    numbers = {term: number for number, term in enumerate(distinct)}
    codes = np.array([numbers.get(word, -1) for word in spelled], np.int32)
    codes = codes[found.indices.to_numpy(zero_copy_only=False)]
    known = codes >= 0
    return (rows, codes, distinct) if known.all() else (rows[known], codes[known], distinct)


def terms_of(text: str, language: str | None) -> list[str]:
    """The terms of one text, in their order: what `terms` gives for it."""
    return [term for term, _, _ in _places(text, language)]


def pieces(text: str, query: str, language: str | None) -> Iterator[tuple[str, bool]]:
    """A text in pieces, one after the other, each with whether it is a word that has a term of a query."""
    asked, position = set(terms_of(query, language)), 0
    for term, low, high in _places(text, language):
        if term in asked:
            if position < low:
                yield text[position:low], False
            yield text[low:high], True
            position = high
    if position < len(text):
        yield text[position:], False


def _places(text: str, language: str | None) -> Iterator[tuple[str, int, int]]:
    """Each term of a text, and where its word begins and ends."""
    stem = _stemmer(language)

    def kind(place: int) -> int:  # the same for what belongs to one word, 0 for what belongs to none
        if text[place] != "_" and unicodedata.category(text[place])[0] not in "LMN":
            return 0
        return place + 2 if _SIGN.match(text[place]) else 1

    for of_word, places in itertools.groupby(range(len(text)), kind):
        if of_word:
            low, *rest = places
            high = rest[-1] + 1 if rest else low + 1
            yield stem(unicodedata.normalize("NFKC", text[low:high]).casefold()), low, high


@cache
def _stemmer(language: str | None):
    if language is None:
        return str
    import Stemmer

    # It keeps a buffer, but it holds the interpreter's lock while it uses it, so threads can share it.
    return Stemmer.Stemmer(language).stemWord


class Postings:
    """Which of so many consecutive texts hold a term, and how often; a ValueError if the table says anything else.

    It has a row per term, sorted: ``term``, ``rows`` (int32, ascending, from 0) and ``counts`` (unsigned).
    """

    def __init__(self, table: pa.Table, size: int) -> None:
        if table.schema not in SCHEMAS or any(c.num_chunks > 1 or c.null_count for c in table.columns):
            raise ValueError("The columns are not those of postings.")
        table.validate(full=True)
        self.table, self._size = table, size
        self._terms, rows, counts = (c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in table.columns)
        self._starts = rows.offsets.to_numpy()
        self._rows, self._counts = rows.values.to_numpy(), counts.values.to_numpy()
        fits = np.array_equal(self._starts, counts.offsets.to_numpy()) and len(self._rows) == len(self._counts)
        if not fits or (len(self._rows) and not 0 <= self._rows.min() <= self._rows.max() < size):
            raise ValueError("The postings name texts that do not exist.")
        self._stations = self._terms[::_STATION].to_pylist()

    def __len__(self) -> int:
        return self._size

    def lengths(self) -> np.ndarray:
        """Words of each text, shape (texts,), float64."""
        return np.bincount(self._rows, weights=self._counts, minlength=self._size)

    def find(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """The texts that hold a term, ascending, and how often each does."""
        low = max(bisect.bisect_right(self._stations, term) - 1, 0) * _STATION
        near = self._terms.slice(low, _STATION).to_pylist()
        place = bisect.bisect_left(near, term)
        if place == len(near) or near[place] != term:
            return self._rows[:0], self._counts[:0]
        mine = slice(self._starts[low + place], self._starts[low + place + 1])
        return self._rows[mine], self._counts[mine]


# The counts have the smallest unsigned type that holds the largest.
SCHEMAS = [
    pa.schema([("term", pa.large_string()), ("rows", pa.large_list(pa.int32())), ("counts", pa.large_list(count))])
    for count in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
]


def postings(texts: pa.ChunkedArray, language: str | None) -> Iterator[Postings]:
    """The postings of texts, none of them null, in parts of about 16 MiB of text."""
    cuts, start, read = [0], 0, 0
    for chunk in texts.chunks:  # a number for each text of all would be a wall
        ends = read + np.cumsum(pc.binary_length(chunk).to_numpy())
        part = read // _PART if start else ends[:1] // _PART
        cuts += (start + np.flatnonzero(np.diff(ends // _PART, prepend=part))).tolist()
        start, read = start + len(chunk), int(ends[-1]) if len(ends) else read
    for start, stop in itertools.pairwise([*cuts, len(texts)]):
        yield _postings(texts.slice(start, stop - start), language)


def _postings(texts: pa.ChunkedArray, language: str | None) -> Postings:
    size = len(texts)
    rows, codes, distinct = terms(texts, language)
    pa.default_memory_pool().release_unused()  # Arrow keeps what NumPy needs now
    # What `np.unique` does, in place: it took 11 to 20 MB more.
    keys = codes.astype(np.int64)
    keys *= size
    keys += rows
    del rows, codes
    keys.sort()
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    pairs, counts = keys[first], np.diff(first, append=len(keys))
    del keys, first
    starts = np.searchsorted(pairs, np.arange(len(distinct) + 1) * size)
    kind = np.min_scalar_type(counts.max(initial=1))
    lists = (
        pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values))
        for values in ((pairs % max(size, 1)).astype(np.int32), counts.astype(kind))
    )
    return Postings(pa.table([pa.array(distinct, pa.large_string()), *lists], ["term", "rows", "counts"]), size)


class Term(NamedTuple):
    """A term of a query, and where it occurs in the rows of all segments."""

    weight: float  # inverse document frequency, as often as it is asked
    rows: np.ndarray | None  # that hold it, ascending; None stands for all rows, in order
    parts: np.ndarray  # for each of them ``tf / (tf + k1 * (1 - b + b * length / mean length))``, float32
    most: float  # the largest of these


class Lexicon:
    """The postings of all segments, in their order, with what BM25 needs to know about the texts that are alive."""

    def __init__(self, parts: Sequence[Postings], alive: np.ndarray | None, language: str | None) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)]).tolist()
        self._alive, self._language = alive, language
        lengths = np.concatenate([np.zeros(0), *(part.lengths() for part in parts)])
        there = lengths if alive is None else lengths[alive]
        self._size = len(there)
        mean = there.mean() if there.any() else 1.0
        self._columns: dict[str, tuple[int, None, np.ndarray, float]] = {}
        self._norms = (K1 * (1 - B + B * lengths / mean)).astype(np.float32)

    def __len__(self) -> int:
        """Rows, with those that were removed."""
        return self._starts[-1]

    def asked(self, queries: Sequence[str]) -> list[list[str]]:
        """The terms of each query, in its order."""
        return [terms_of(query, self._language) for query in queries]

    def weighed(self, asked: Sequence[str]) -> list[Term]:
        """The different terms of a query that occur in a row, the rarest first; weighed as in Lucene since 8 and in
        bm25s: ``log(1 + (n - df + 0.5) / (df + 0.5))``, where n, df and the mean length count what was not removed."""
        found = [(*self._found(term), term, times) for term, times in Counter(asked).items()]
        return [
            Term(times * math.log1p((self._size - frequency + 0.5) / (frequency + 0.5)), rows, parts, most)
            for frequency, rows, parts, most, _, times in sorted(found, key=lambda one: (one[0], one[4]))
            if len(parts)
        ]

    def _found(self, term: str) -> tuple[int, np.ndarray | None, np.ndarray, float]:
        """How many texts hold a term; and its rows, their parts and the largest of these, as in `Term`."""
        if term in self._columns:
            return self._columns[term]
        found = [part.find(term) for part in self._parts]
        moved = (mine + start for start, (mine, _) in zip(self._starts, found, strict=False))
        rows = np.concatenate([np.zeros(0, np.int32), *moved])
        counts = np.concatenate([np.zeros(0, np.uint8), *(mine for _, mine in found)])
        parts = (counts / (counts + self._norms[rows])).astype(np.float32, copy=False)
        most = float(parts.max(initial=0))
        frequency = len(rows) if self._alive is None else int(np.count_nonzero(self._alive[rows]))
        if len(rows) * _COMMON > len(self) > _LARGE and len(self._columns) < _COLUMNS:
            column = np.zeros(len(self), np.float32)
            column[rows] = parts
            self._columns[term] = frequency, None, column, most
            return self._columns[term]
        return frequency, rows, parts, most


def scores(terms: Sequence[Term], rows: np.ndarray) -> np.ndarray:
    """BM25 of some rows, float64: the sum of ``weight * part``, in the order of the terms, so that equal texts tie."""
    total = np.zeros(len(rows))
    for term in terms:
        if term.rows is None:
            total += term.weight * term.parts[rows]
        else:
            places = np.searchsorted(term.rows, rows.astype(term.rows.dtype))
            places[places == len(term.rows)] = 0
            total += np.where(term.rows[places] == rows, term.weight * term.parts[places], 0)
    return total


def best(terms: Sequence[Term], size: int, top_k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the highest BM25 above 0, best first, equal scores in the order of the rows.

    Most rows hold only common words, which add little. As soon as as many rows as are wanted have more than all common
    words that are left could add together, a row without any other word is not among the best (MaxScore: Turtle and
    Flood, 1995), and the words that are left are only looked up in the rows that still can be. A mask may say which of
    the ``size`` rows are allowed.
    """
    # Sums in float32 take half the time; they only choose the rows that are scored.
    sums, left = np.zeros(size, np.float32), [term for term in terms if term.rows is None]
    rounded = _ROUNDED * (len(terms) + 1)

    def needed(least: float) -> float:
        """What a row must have by now to have ``least`` in the end."""
        return least * (1 - rounded) - sum(term.weight * term.most for term in left) * (1 + rounded)

    for term in terms:
        if term.rows is not None:
            sums[term.rows] += term.weight * term.parts
    while True:
        if allowed is not None:
            sums *= allowed
        floor = needed(_least(sums, top_k))
        if floor > 0 or not left:
            break
        term = left.pop(0)
        sums += term.weight * term.parts
    rows = np.flatnonzero(sums >= floor if floor > 0 else sums)
    sums = sums[rows]
    while True:
        if len(rows) > top_k:
            kept = sums >= needed(float(np.partition(sums, -top_k)[-top_k]))
            rows, sums = rows[kept], sums[kept]
        if not left:
            break
        term = left.pop(0)
        sums += term.weight * term.parts[rows]
    exact = scores(terms, rows)
    order = np.lexsort((rows, -exact))[:top_k]
    return exact[order], rows[order]


def _least(sums: np.ndarray, top_k: int) -> float:
    """What ``top_k`` rows have at least, since in so many blocks of rows there is one; 0 where there are too few."""
    if len(sums) < top_k * _BLOCK:
        return 0.0
    # Numbers that are not negative are in the order of their bits, and integers, never NaN, are compared faster.
    tops = np.maximum.reduceat(sums.view(np.int32), np.arange(0, len(sums), _BLOCK))
    return float(np.partition(tops.view(np.float32), -top_k)[-top_k])
