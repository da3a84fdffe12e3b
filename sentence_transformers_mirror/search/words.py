"""Search by words: BM25 over postings, which are a cache over the texts as FAISS's structure is one over the vectors.

Postings say which rows hold a word how often. They belong to a segment, are made once and never change; what does
change with every added or removed text, the rarity of words and the mean length, is worked out when a snapshot is
first asked. So scores are exact after any change, and no text is read twice.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# As in Lucene and bm25s: how soon repetition stops to count, and how much the length of a text does.
K1, B = 1.5, 0.75
# Letters, marks, numbers and "_" make words; without marks, Hindi falls to pieces. Kana and Han are not spaced: every
# sign is a word. Arrow splits columns twice as fast as Python, and Python a query without building an automaton.
_GAPS = r"[^\pL\pM\pN_]+"
_SIGNS = "\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_SIGN = re.compile(f"([{_SIGNS}])")
_BLOCK = 256  # rows
_COMMON = 16  # a word in more than a sixteenth of the texts: its scores are kept as a column of all rows, for
_COLUMNS = 32  # so many words; to add a column takes a tenth of the time of going through a list
_LARGE = 10_000  # rows, below which lists are as fast as columns
_PART = 2**24  # bytes of text that are read at a time, to bound memory


def languages() -> list[str]:
    """The languages whose words can be stemmed."""
    import Stemmer

    return sorted(set(Stemmer.algorithms()))


def check_language(language: str | None) -> str | None:
    """Refuse a language without a stemmer.

    Raises:
        ValueError: If there is none for it.
    """
    if language is not None and language not in languages():
        raise ValueError(
            f"There is no stemmer for the language {language!r:.60}: choose one of {', '.join(languages())}, or None."
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

    Args:
        texts: Strings, none of them null.
        language: One of `languages`, or None.

    Returns:
        For each word in the order of the texts the number of its text and of its term, int64; and the terms, sorted.
    """
    texts = pc.replace_substring_regex(texts, pattern=_SIGN.pattern, replacement=r" \1 ")
    split = pc.utf8_split_whitespace(pc.replace_substring_regex(texts, pattern=_GAPS, replacement=" "))
    if isinstance(split, pa.ChunkedArray):
        split = split.combine_chunks() if split.num_chunks != 1 else split.chunk(0)
    found = pc.list_flatten(split).dictionary_encode()
    stem = _stemmer(language)
    spelled = [stem(unicodedata.normalize("NFKC", word).casefold()) for word in found.dictionary.to_pylist()]
    distinct = sorted(set(spelled) - {""})  # what is left where a text begins or ends with a gap
    numbers = {term: number for number, term in enumerate(distinct)}
    codes = np.array([numbers.get(word, -1) for word in spelled], np.int64)
    codes = codes[found.indices.to_numpy(zero_copy_only=False)]
    rows = pc.list_parent_indices(split).to_numpy(zero_copy_only=False)
    return rows[codes >= 0], codes[codes >= 0], distinct


def terms_of(text: str, language: str | None) -> list[str]:
    """The terms of one text, in their order: what `terms` gives for it."""
    return [term for term, _, _ in _places(text, language)]


def marked(text: str, query: str, language: str | None, before: str, after: str) -> str:
    """A text with something before and after each word that has a term of a query."""
    asked, made, position = set(terms_of(query, language)), [], 0
    for term, low, high in _places(text, language):
        if term in asked:
            made += [text[position:low], before, text[low:high], after]
            position = high
    return "".join([*made, text[position:]])


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
    return Stemmer.Stemmer(check_language(language)).stemWord


class Postings:
    """Which of some consecutive texts hold a term, and how often.

    Args:
        table: A row per term, sorted: ``term``, ``rows`` (int32, ascending, from 0) and ``counts`` (unsigned).
        size: Texts.

    Raises:
        ValueError: If the table is not of this kind, or names texts that do not exist.
    """

    def __init__(self, table: pa.Table, size: int) -> None:
        fits = table.column_names == ["term", "rows", "counts"] and all(c.num_chunks <= 1 for c in table.columns)
        fits = fits and table.schema in SCHEMAS
        if not fits or any(column.null_count for column in table.columns):
            raise ValueError("The columns are not those of postings.")
        table.validate(full=True)
        self.table, self._size = table, size
        self._terms, rows, counts = (column.combine_chunks() for column in table.columns)
        if isinstance(self._terms, pa.ChunkedArray):
            self._terms, rows, counts = (column.chunk(0) for column in table.columns)
        self._starts = rows.offsets.to_numpy()
        self._rows, self._counts = rows.values.to_numpy(), counts.values.to_numpy()
        if (
            not np.array_equal(self._starts, counts.offsets.to_numpy())
            or len(self._rows) != len(self._counts)
            or (len(self._rows) and not 0 <= self._rows.min() <= self._rows.max() < size)
        ):
            raise ValueError("The postings name texts that do not exist.")

    def __len__(self) -> int:
        return self._size

    def lengths(self) -> np.ndarray:
        """Words of each text, shape (texts,), float64."""
        return np.bincount(self._rows, weights=self._counts, minlength=self._size)

    def find(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """The texts that hold a term, ascending, and how often each does."""
        low, high = 0, len(self._terms)
        while low < high:
            middle = (low + high) // 2
            if self._terms[middle].as_py() < term:
                low = middle + 1
            else:
                high = middle
        if low == len(self._terms) or self._terms[low].as_py() != term:
            return self._rows[:0], self._counts[:0]
        mine = slice(self._starts[low], self._starts[low + 1])
        return self._rows[mine], self._counts[mine]


def schema(count: pa.DataType) -> pa.Schema:
    """Of the table of postings, whose counts have the smallest unsigned type that holds the largest."""
    return pa.schema(
        [("term", pa.large_string()), ("rows", pa.large_list(pa.int32())), ("counts", pa.large_list(count))]
    )


SCHEMAS = [schema(count) for count in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())]


def postings(texts: pa.ChunkedArray, language: str | None) -> Iterator[Postings]:
    """The postings of texts, in parts of about 16 MiB of text.

    Args:
        texts: Strings, none of them null.
        language: As for `terms`.
    """
    return (_postings(part, language) for part in _parts(texts))


def _parts(texts: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    ends = np.cumsum(pc.binary_length(texts).to_numpy())
    cuts = [0, *(np.flatnonzero(np.diff(ends // _PART)) + 1).tolist(), len(texts)]
    for start, stop in itertools.pairwise(cuts):
        yield texts.slice(start, stop - start)


def _postings(texts: pa.ChunkedArray, language: str | None) -> Postings:
    size = len(texts)
    rows, codes, distinct = terms(texts, language)
    pairs, counts = np.unique(codes * size + rows, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(len(distinct) + 1) * size)
    kind = np.min_scalar_type(counts.max(initial=1))
    lists = (
        pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values))
        for values in ((pairs % max(size, 1)).astype(np.int32), counts.astype(kind))
    )
    return Postings(pa.table([distinct, *lists], schema=schema(pa.from_numpy_dtype(kind))), size)


class Lexicon:
    """The postings of all segments together, with what BM25 needs to know about the texts that were not removed.

    Args:
        parts: Postings, in the order of their rows.
        alive: Whether a row was not removed, shape (rows,), bool; None if all are there.
        language: As for `terms`.
    """

    def __init__(self, parts: Sequence[Postings], alive: np.ndarray | None, language: str | None) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)]).tolist()
        self._alive, self._language = alive, language
        lengths = np.concatenate([np.zeros(0), *(part.lengths() for part in parts)])
        there = lengths if alive is None else lengths[alive]
        self._size = len(there)
        mean = there.mean() if there.any() else 1.0
        self._columns: dict[str, tuple[int, list[tuple[np.ndarray | slice, np.ndarray]]]] = {}
        self._norms = (K1 * (1 - B + B * lengths / mean)).astype(np.float32)

    def asked(self, queries: Sequence[str]) -> list[list[str]]:
        """The terms of each query, one that is there twice twice."""
        return [terms_of(query, self._language) for query in queries]

    def scores(self, asked: Sequence[str]) -> np.ndarray:
        """BM25 of all rows for the terms of a query, shape (rows,), float64, above 0 where one of them occurs.

        The score is the sum, over the terms, of ``log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b *
        length / mean length))``, where n, df and the mean count the texts that were not removed: as in Lucene since 8
        and in bm25s. Removed rows have a score, too.
        """
        scores = np.zeros(self._starts[-1])
        for term, times in Counter(asked).items():
            frequency, found = self._found(term)
            weight = times * math.log1p((self._size - frequency + 0.5) / (frequency + 0.5))
            for rows, repeated in found:
                scores[rows] += weight * repeated
        return scores

    def _found(self, term: str) -> tuple[int, list[tuple[np.ndarray | slice, np.ndarray]]]:
        """How many texts hold a term; and rows, each with ``tf / (tf + k1 * (...))``."""
        if term in self._columns:
            return self._columns[term]
        found, frequency, size = [], 0, 0
        for start, part in zip(self._starts, self._parts, strict=False):
            rows, counts = part.find(term)
            if len(rows):
                rows = rows + start if start else rows
                frequency += len(rows) if self._alive is None else int(np.count_nonzero(self._alive[rows]))
                size += len(rows)
                found.append((rows, counts / (counts + self._norms[rows])))
        if size * _COMMON > len(self._norms) > _LARGE and len(self._columns) < _COLUMNS:
            column = np.zeros(len(self._norms), np.float32)
            for rows, repeated in found:
                column[rows] = repeated
            found = [(slice(None), column)]
            self._columns[term] = frequency, found
        return frequency, found


def best(scores: np.ndarray, top_k: int, allowed: np.ndarray | None) -> np.ndarray:
    """The rows with the highest scores above 0, best first, equal scores in the order of the rows.

    Args:
        scores: Shape (rows,).
        top_k: Rows wanted, at least 1; there are fewer if fewer are allowed or score above 0.
        allowed: Whether a row may be found, shape (rows,), bool; None allows all.
    """
    if allowed is not None:
        scores = scores * allowed
    least = 0.0
    if len(scores) >= top_k * _BLOCK:
        # As many blocks as hits are wanted have a score of at least this, so the hits do, too.
        tops = np.maximum.reduceat(scores, np.arange(0, len(scores), _BLOCK))
        least = np.partition(tops, -top_k)[-top_k]
    rows = np.flatnonzero(scores >= least if least > 0 else scores)
    return rows[np.lexsort((rows, -scores[rows]))[:top_k]]
