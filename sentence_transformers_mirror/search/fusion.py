"""Words and meaning together: how the scores of two searches become one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.search import ann, words
from sentence_transformers_mirror.search.ann import products
from sentence_transformers_mirror.search.snapshot import Snapshot

Mode = Literal["meaning", "words", "both"]
Fusion = Literal["convex", "rrf"]
MODES: tuple[Mode, ...] = get_args(Mode)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
WEIGHT = 0.3  # of meaning; chosen in benchmarks/hybrid.py, on other sets than the one that is reported
_CANDIDATES = 100  # of each search, at least: a text that is far down in both is no hit of theirs together
_RRF = 60  # Cormack et al. 2009


class Found(NamedTuple):
    """A row that was found: what it is ordered by, its cosine, and its BM25; None where it was not asked for."""

    score: float
    row: int
    meaning: float | None
    words: float | None


def convex(cosines: np.ndarray, bm25: np.ndarray, chance: float, weight: float) -> np.ndarray:
    """The weighted mean of both scores, after each was scaled so that 1 is the best and 0 a text taken at random.

    A text at random shares no word with the query, so BM25 is divided by the best alone (Bruch et al., arXiv
    2210.11934, who found a convex combination better than ranks).

    Args:
        cosines: The cosines of some texts with the query, shape (texts,).
        bm25: The BM25 scores of the same texts, shape (texts,), at least 0.
        chance: Mean cosine of the query with the texts of the index.
        weight: The weight of meaning, 0 to 1.
    """
    spread, most = cosines.max() - chance, bm25.max()
    meaning = (cosines - chance) / spread if spread > 0 else np.zeros(len(cosines))
    return weight * meaning + (1 - weight) * (bm25 / most if most > 0 else bm25)


def reciprocal_ranks(cosines: np.ndarray, bm25: np.ndarray, weight: float) -> np.ndarray:
    """Reciprocal rank fusion, ``weight / (60 + rank)`` by cosine plus ``(1 - weight) / (60 + rank)`` by BM25.

    Args:
        cosines, bm25, weight: As for `convex`. Equal scores have the rank of the first of them; a text without a word
            of the query has no rank by BM25.
    """
    by_meaning, by_words = (1 + np.searchsorted(np.sort(-scores), -scores) for scores in (cosines, bm25))
    return weight / (_RRF + by_meaning) + np.where(bm25 > 0, (1 - weight) / (_RRF + by_words), 0)


def check(mode: str, weight: float | None, fusion: str) -> float:
    """The weight of meaning.

    Raises:
        ValueError: If one of them is out of its range.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be 'meaning', 'words' or 'both', not {quoted(mode)}.")
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be 'convex' or 'rrf', not {quoted(fusion)}.")
    if weight is None:
        return WEIGHT if fusion == "convex" else 0.5
    if mode != "both":
        raise ValueError(f"weight says how much meaning counts beside words: pass mode='both', not {mode!r}.")
    weight = plain(weight)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise ValueError(f"weight is the share of meaning, from 0 (words alone) to 1, not {quoted(weight)}.")
    return float(weight)


def check_bm25(threshold: float | str | None) -> float | None:
    """The least BM25 of a hit.

    Raises:
        ValueError: If it is none.
    """
    threshold = plain(threshold)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise ValueError(
            f"threshold is a BM25 score in a search by words, at least 0 and never 'auto', not {quoted(threshold)}."
        )
    return threshold


def by_meaning(snapshot: Snapshot, vectors: np.ndarray, top_k: int, allowed: np.ndarray | None) -> list[list[Found]]:
    """The rows with the highest cosine for each query."""
    scores, rows = ann.search(snapshot.vectors, snapshot.loaded, vectors, top_k, allowed)
    np.clip(scores, -1, 1, out=scores)  # products of unit vectors are up to 1.0000002
    return [
        [Found(score, row, score, None) for score, row in _pairs(*line)] for line in zip(scores, rows, strict=True)
    ]


def by_words(snapshot: Snapshot, queries: Sequence[str], top_k: int, allowed: np.ndarray | None) -> list[list[Found]]:
    """The rows with the highest BM25 for each query.

    Raises:
        ValueError: If a query has no word.
    """
    lexicon = snapshot.lexicon
    asked = lexicon.asked(queries)
    for query, terms in zip(queries, asked, strict=True):
        if not terms:
            raise ValueError(f"The query {quoted(query)} has no word in it: search with mode='meaning' or 'both'.")
    found = []
    for terms in asked:
        scores, rows = words.best(lexicon.weighed(terms), len(lexicon), top_k, allowed)
        found.append([Found(score, row, None, score) for score, row in _pairs(scores, rows)])
    return found


def by_both(
    snapshot: Snapshot,
    vectors: np.ndarray,
    queries: Sequence[str],
    top_k: int,
    allowed: np.ndarray | None,
    weight: float,
    fusion: str,
) -> list[list[Found]]:
    """The best rows by meaning and by words, at least 100 of each, in the order of both scores together.

    Args:
        vectors: Unit vectors of the queries.
        weight, fusion: Checked.
    """
    depth = max(_CANDIDATES, top_k)
    lexicon = snapshot.lexicon
    _, near = ann.search(snapshot.vectors, snapshot.loaded, vectors, depth, allowed)
    found: list[list[Found]] = []
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
        columns = (column[best].tolist() for column in (fused, rows, cosines, bm25))
        found.append([Found(*one) for one in zip(*columns, strict=True)])
    return found


def _pairs(scores: np.ndarray, rows: np.ndarray) -> zip:
    return zip(scores.tolist(), rows.tolist(), strict=True)
