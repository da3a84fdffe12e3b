"""A map of an index: a sample of its texts in two dimensions, where hits find their place, too."""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import orthogonal_procrustes

from sentence_transformers_mirror.search import Hit, SearchIndex
from sentence_transformers_mirror.search.hits import vectors_of
from sentence_transformers_mirror.search.words import terms_of
from sentence_transformers_mirror.texts.sentences import split_sentences

logger = logging.getLogger(__name__)

_SAMPLE = 600  # texts
_LEAST = 20  # texts, below which there are no neighbourhoods and no common words to speak of
_READ = 2_000  # characters of a text
_EXAMPLES = 6
_FEW, _LONG = 3, 70  # words of an example at least, and characters at most


@dataclass(frozen=True)
class Sample:
    """Some texts of an index."""

    ids: list[int | str]
    texts: list[str]  # what was embedded of each: the text, or its first passage
    vectors: np.ndarray  # of length 1, float32, shape (texts, dimension)

    @classmethod
    def of(cls, index: SearchIndex, ids: Sequence[int | str] | None = None, seed: int = 0) -> Sample:
        """Texts drawn at random, or those of some ids that the index has."""
        state = index._state
        snapshot = state.snapshot
        if ids is None:
            rows = np.sort(np.random.default_rng(seed).permutation(snapshot.texts)[:_SAMPLE])
        else:
            rows = np.array([state.positions[item] for item in ids if item in state.positions], np.int64)
        places = [snapshot.locate(row) for row in rows.tolist()]
        return cls(
            [segment.id(local) for segment, local in places],
            [segment.passage(local) for segment, local in places],
            snapshot.vectors.take(rows),
        )

    @cached_property
    def rows(self) -> dict[int | str, int]:
        """The row of each id."""
        return {item: row for row, item in enumerate(self.ids)}

    def examples(self) -> list[str]:
        """A few queries: sentences of the texts, or how these begin."""
        found = list(filter(None, dict.fromkeys(_beginning(text) for text in self.texts)))
        long = [text for text in found if len(text.split()) >= _FEW] or found
        return long[:: max(len(long) // _EXAMPLES, 1)][:_EXAMPLES]

    def common(self, language: str | None) -> frozenset[str]:
        """Terms that tell little: those of more than a fifth of the texts, where these are not too few to say."""
        if len(self.texts) < _LEAST:
            return frozenset()
        counts = Counter(term for text in self.texts for term in set(terms_of(text[:_READ], language)))
        return frozenset(term for term, count in counts.items() if 5 * count > len(self.texts))


def _beginning(text: str) -> str:
    """The first sentence of a text, without the words that are too many."""
    sentence = " ".join(next(iter(split_sentences(text[: 10 * _LONG])), "").split())
    if len(sentence) <= _LONG:
        return sentence
    return sentence[: _LONG + 1].rpartition(" ")[0] or sentence[:_LONG]


class Chart:
    """Places of texts in a square, 0 to 1 both ways: by UMAP if it is installed, else by the principal components.

    Beside the chart of another model it is turned and mirrored until texts of both lie ``like`` they do there, as far
    as that goes: in which direction a component points is chance.
    """

    def __init__(self, sample: Sample, like: Chart | None = None) -> None:
        self.sample = sample
        self._turn = np.eye(2)
        self._reducer = _reducer(sample.vectors)
        places = np.zeros((len(sample.ids), 2))
        if self._reducer is not None:
            places = np.asarray(self._reducer.fit_transform(sample.vectors), np.float64)
            self._reducer.transform(sample.vectors[:1])  # UMAP compiles this the first time: not while somebody waits
        self._mean = places.sum(axis=0) / max(len(sample.ids), 1)
        self._places = places - self._mean
        if like is not None:
            shared = [item for item in sample.ids if item in like.sample.rows]
            mine, other = (one._places[[one.sample.rows[item] for item in shared]] for one in (self, like))
            self._turn = orthogonal_procrustes(mine, other)[0]
            self._places = self._places @ self._turn
        self._low, self._high = self._places.min(axis=0, initial=0), self._places.max(axis=0, initial=0)
        self.places = self._inside(self._places)  # of the sample, shape (texts, 2)
        self.method = "UMAP" if type(self._reducer).__name__ == "UMAP" else "principal components"

    def place(self, hits: Sequence[Hit]) -> np.ndarray:
        """Of hits, which need not be in the sample, shape (hits, 2)."""
        places = np.full((len(hits), 2), 0.5)
        new = []
        for number, hit in enumerate(hits):
            if hit.id in self.sample.rows:
                places[number] = self.places[self.sample.rows[hit.id]]
            else:
                new.append(number)
        if new and self._reducer is not None:
            # A hit that was just found has its row still at hand.
            vectors = vectors_of([hits[number] for number in new])
            found = np.asarray(self._reducer.transform(vectors), np.float64)
            places[new] = self._inside((found - self._mean) @ self._turn)
        return places

    def _inside(self, places: np.ndarray) -> np.ndarray:
        spread = np.where(self._high > self._low, self._high - self._low, 1)
        return np.clip((places - self._low) / spread, 0, 1)


def _reducer(vectors: np.ndarray) -> Any:
    """What reduces vectors to two numbers; None where there is nothing to reduce."""
    if min(vectors.shape) < 2:
        return None
    if len(vectors) >= _LEAST and importlib.util.find_spec("umap") is not None:
        import umap

        logger.info("Drawing the map of the texts by UMAP, which takes about a minute.")
        return umap.UMAP(metric="cosine", random_state=0, n_jobs=1)
    from sklearn.decomposition import PCA

    return PCA(2, random_state=0)
