"""Parts of texts that belong together: the structure that texts have without anybody's labels."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sentence_transformers_mirror.evidence.ranking import look_alikes, tfidf_reciprocal_ranks
from sentence_transformers_mirror.texts.sentences import TITLES, split_sentences, split_title

logger = logging.getLogger(__name__)

_LEAST_DOCUMENTS = 50  # with structure, to say anything
_READ = 20_000  # characters of a text
_HIDDEN = 0.3  # of the words of a single sentence
SINGLE = "single sentences"


@dataclass(frozen=True)
class Parts:
    """Parts of texts that belong together."""

    queries: list[str]
    passages: list[str]  # as many; number i belongs to query i
    documents: np.ndarray  # number of the document that each pair is from, int64, shape (pairs,), ascending
    structure: str  # what a query and its passage are to each other

    @property
    def texts(self) -> int:
        """Documents that have pairs."""
        return len(np.unique(self.documents))

    @cached_property
    def rivals(self) -> np.ndarray:
        """Rows of the passages that share the most telling words with each passage, see `ranking.look_alikes`."""
        return look_alikes(self.passages)

    @cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Reciprocal ranks of TF-IDF among all and among look-alikes: the floor that an encoder must clear."""
        return (
            tfidf_reciprocal_ranks(self.queries, self.passages),
            tfidf_reciprocal_ranks(self.queries, self.passages, self.rivals),
        )


def split_parts(
    texts: Iterable[str | tuple[str, str]],
    structure: str = "auto",
    *,
    language: str = "en",
    max_documents: int = 1_000,
    seed: int = 0,
) -> Parts:
    """Cut texts into parts that belong together.

    Args:
        texts: Strings, or pairs of title and text.
        structure: ``first`` (the first sentence and the rest), ``halves`` (of the sentences, where there are four),
            ``neighbours`` (each two sentences), ``single`` (a sentence and the same with three of ten words hidden),
            ``title`` (and what is below it); or ``auto``: ``first``, and where fewer than 50 texts have two sentences
            ``title``, or ``single`` where there are no titles. The recipe `search` teaches titles, and never a first
            sentence against the rest: what was tuned by it is to be asked by the latter.
        language: An ISO 639-1 code.
        max_documents: Largest number of documents; more are sampled.
        seed: Seed for the sample and the hidden words.

    Returns:
        Pairs, none of whose parts is there twice.

    Raises:
        ValueError: If there is no such structure, or fewer than 50 texts have it.
    """
    if structure not in ("auto", "single", "title", *_STRUCTURES):
        raise ValueError(
            f"There is no structure {structure!r}; they are auto, single, title, {', '.join(_STRUCTURES)}."
        )
    documents = [
        ("", text) if isinstance(text, str) else split_title(text[0] or "", text[1]) for text in dict.fromkeys(texts)
    ]
    random.Random(seed).shuffle(documents)
    bodies, titled = [body for _, body in documents], [document for document in documents if document[0]]

    def cut(structure: str) -> Parts:
        if structure == "title":
            return _distinct(([document] for document in titled), max_documents, TITLES)
        if structure == "single":
            draw = random.Random(seed)
            return _distinct((_hidden(text, draw) for text in bodies), max_documents, SINGLE)
        pairs, said = _STRUCTURES[structure]
        # A model reads no more of a text.
        sentences = (list(split_sentences(text[:_READ], language)) for text in bodies)
        return _distinct(map(pairs, sentences), max_documents, said)

    parts = cut("first" if structure == "auto" else structure)
    if structure == "auto" and parts.texts < _LEAST_DOCUMENTS:
        parts = cut("title" if titled else "single")
    if parts.texts < _LEAST_DOCUMENTS:
        raise ValueError(
            f"Only {parts.texts} of {len(bodies)} texts have parts to rank ({parts.structure}), and "
            f"{_LEAST_DOCUMENTS} are needed to say anything: give more texts."
        )
    if (used := parts.texts) < min(max_documents, len(bodies)) / 2:
        logger.warning(
            f"Only {used:,} of {len(bodies):,} texts have such parts ({parts.structure}), and the others do not count."
        )
    return parts


def _first(sentences: Sequence[str]) -> list[tuple[str, str]]:
    return [(sentences[0], " ".join(sentences[1:]))] if len(sentences) > 1 else []


def _halves(sentences: Sequence[str]) -> list[tuple[str, str]]:
    middle = len(sentences) // 2
    return [(" ".join(sentences[:middle]), " ".join(sentences[middle:]))] if len(sentences) > 3 else []


def _neighbours(sentences: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(sentences[::2], sentences[1::2], strict=False))


_STRUCTURES: dict[str, tuple[Callable[[Sequence[str]], list[tuple[str, str]]], str]] = {
    "first": (_first, "first sentence and the rest"),
    "halves": (_halves, "halves"),
    "neighbours": (_neighbours, "neighbouring sentences"),
}


def _hidden(text: str, draw: random.Random) -> list[tuple[str, str]]:
    words = text.split()
    hidden = set(draw.sample(range(len(words)), round(_HIDDEN * len(words))))
    return [(" ".join(word for i, word in enumerate(words) if i not in hidden), text)] if hidden else []


def _distinct(documents: Iterable[Sequence[tuple[str, str]]], most: int, structure: str) -> Parts:
    """What is there twice has no one right passage."""
    queries: list[str] = []
    seen: set[str] = set()
    passages, numbers, number = [], [], 0
    for pairs in documents:
        if number == most:
            break
        found = len(queries)
        for query, passage in pairs:
            if query.strip() and passage.strip() and query != passage and seen.isdisjoint((query, passage)):
                queries.append(query)
                passages.append(passage)
                numbers.append(number)
                seen.update((query, passage))
        number += len(queries) > found
    return Parts(queries, passages, np.array(numbers, np.int64), structure)
