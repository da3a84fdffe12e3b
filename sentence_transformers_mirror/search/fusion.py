"""What is found by words, by meaning, or by both: how the scores of two searches become one order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.search import ann, words
from sentence_transformers_mirror.search.ann import products
from sentence_transformers_mirror.search.hits import Hit
from sentence_transformers_mirror.search.snapshot import Snapshot

Mode = Literal["meaning", "words", "both"]
Fusion = Literal["convex", "rrf"]
MODES: tuple[Mode, ...] = get_args(Mode)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
WEIGHT = 0.3  # of meaning; chosen in benchmarks/hybrid.py, on other sets than the one that is reported
_CANDIDATES = 100  # of each search, at least: a text that is far down in both is no hit of theirs together
_RRF = 60  # Cormack et al. 2009
_FACTOR = 4  # passages that are asked for at first, for a text that is wanted


def check(mode: str, weight: float | None, fusion: str) -> float:
    """The weight of meaning, if all three are in their ranges."""
    if mode not in MODES:
        raise ValueError(f"mode must be 'meaning', 'words' or 'both', not {quoted(mode)}.")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be 'convex' or 'rrf', not {quoted(fusion)}.")
    if weight is None:
        return WEIGHT if fusion == "convex" else 0.5
    if mode != "both":
        raise ValueError(f"weight says how much meaning counts beside words: pass mode='both', not {mode!r}.")
    weight = plain(weight)
    if not _is_number(weight, 0, 1):
        raise ValueError(f"weight is the share of meaning, from 0 (words alone) to 1, not {quoted(weight)}.")
    return float(weight)


def check_threshold(mode: str, threshold: float | str | None) -> Any:
    """The least BM25 of a hit in a search by words, or else its least cosine; ``auto``, or None."""
    threshold = plain(threshold)
    if threshold is None or (mode != "words" and isinstance(threshold, str) and threshold == "auto"):
        return threshold
    if mode == "words" and not _is_number(threshold, 0, math.inf):
        raise ValueError(
            f"threshold is a BM25 score in a search by words, at least 0 and never 'auto', not {quoted(threshold)}."
        )
    if mode != "words" and not _is_number(threshold, -1, 1):
        raise ValueError(f"threshold is a cosine similarity, -1 to 1, or 'auto', not {quoted(threshold)}.")
    return threshold


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def by_meaning(snapshot: Snapshot, vectors: np.ndarray, top_k: int, allowed: np.ndarray | None) -> list[list[Hit]]:
    """The rows with the highest cosine for each query."""
    scores, rows = ann.search(snapshot.vectors, snapshot.loaded, vectors, top_k, allowed)
    np.clip(scores, -1, 1, out=scores)  # products of unit vectors are up to 1.0000002
    lazy = Hit.lazy  # a thousand queries have ten thousand hits
    return [
        [lazy(snapshot, row, score) for score, row in zip(*line, strict=True)]
        for line in zip(scores.tolist(), rows.tolist(), strict=True)
    ]


def by_words(snapshot: Snapshot, queries: Sequence[str], top_k: int, allowed: np.ndarray | None) -> list[list[Hit]]:
    """The rows with the highest BM25 for each query, which must have a word."""
    lexicon = snapshot.lexicon
    asked = lexicon.asked(queries)
    for query, terms in zip(queries, asked, strict=True):
        if not terms:
            raise ValueError(f"The query {quoted(query)} has no word in it: search with mode='meaning' or 'both'.")
    best = (words.best(lexicon.weighed(terms), len(lexicon), top_k, allowed) for terms in asked)
    return [
        [Hit.of(snapshot, row, score, None, score) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
        for scores, rows in best
    ]


def by_both(
    snapshot: Snapshot,
    vectors: np.ndarray,
    queries: Sequence[str],
    top_k: int,
    allowed: np.ndarray | None,
    weight: float,
    fusion: str,
) -> list[list[Hit]]:
    """The best rows by meaning and by words, at least 100 of each, in the order of both scores together."""
    depth = max(_CANDIDATES, top_k)
    lexicon = snapshot.lexicon
    _, near = ann.search(snapshot.vectors, snapshot.loaded, vectors, depth, allowed)
    found: list[list[Hit]] = []
    for vector, rows, asked in zip(vectors, near, lexicon.asked(queries), strict=True):
        terms = lexicon.weighed(asked)
        rows = np.union1d(rows, words.best(terms, len(lexicon), depth, allowed)[1])
        if not len(rows):
            found.append([])
            continue
        cosines = products(snapshot.vectors, vector[None], rows[None])[0].clip(-1, 1)
        bm25 = words.scores(terms, rows)
        if fusion == "convex":
            fused = convex(cosines, bm25, float(vector @ snapshot.centre), weight)
        else:
            fused = reciprocal_ranks(cosines, bm25, weight)
        best = np.lexsort((rows, -fused))[:top_k]
        columns = (column[best].tolist() for column in (rows, fused, cosines, bm25))
        found.append([Hit.of(snapshot, *one) for one in zip(*columns, strict=True)])
    return found


def convex(cosines: np.ndarray, bm25: np.ndarray, chance: float, weight: float) -> np.ndarray:
    """The weighted mean of both scores, after each was scaled so that 1 is the best and 0 a text taken at random.

    A text at random has the mean cosine of the query with the texts of the index, ``chance``. It shares no word with
    the query, so BM25 is divided by the best alone (Bruch et al., arXiv 2210.11934, who found a convex combination
    better than ranks).
    """
    spread, most = cosines.max() - chance, bm25.max()
    meaning = (cosines - chance) / spread if spread > 0 else np.zeros(len(cosines))
    return weight * meaning + (1 - weight) * (bm25 / most if most > 0 else bm25)


def reciprocal_ranks(cosines: np.ndarray, bm25: np.ndarray, weight: float) -> np.ndarray:
    """Reciprocal rank fusion, ``weight / (60 + rank)`` by cosine plus ``(1 - weight) / (60 + rank)`` by BM25.

    Equal scores have the rank of the first of them; a text without a word of the query has no rank by BM25.
    """
    by_meaning, by_words = (1 + np.searchsorted(np.sort(-scores), -scores) for scores in (cosines, bm25))
    return weight / (_RRF + by_meaning) + np.where(bm25 > 0, (1 - weight) / (_RRF + by_words), 0)


def by_text(ask: Callable[[int], list[list[Hit]]], owners: np.ndarray, top_k: int) -> list[list[Hit]]:
    """The texts with the best passages, each by its best one.

    ``ask`` gives so many passages for each query, best first, or all that there are; ``owners`` is the first passage
    of the text of each passage.
    """
    passages = max(len(owners), 1)
    count = min(_FACTOR * top_k, passages)
    while True:
        lines = ask(count)
        best = []
        for line in lines:
            firsts: dict[int, Hit] = {}
            for hit in line:
                firsts.setdefault(int(owners[hit._row]), hit)
            best.append(list(firsts.values())[:top_k])
        # Asked again for more, unless there are enough texts, or no more passages.
        enough = (len(hits) == top_k or len(line) < count for hits, line in zip(best, lines, strict=True))
        if count >= passages or all(enough):
            return best
        count = min(_FACTOR * count, passages)
