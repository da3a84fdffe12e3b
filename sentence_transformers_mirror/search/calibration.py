"""A threshold that means something: the score that a query and a text that do not belong together rarely reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.reports import Calibration
from sentence_transformers_mirror.search.snapshot import Snapshot

RATE = 0.01  # by default; rarer ones are the scores of texts that are nearly equal
_SAMPLE = 2_000  # texts
_QUERIES = 300  # parts of texts, each compared with all of these
_AT_A_TIME = 30
_WORDS = 5  # of a part: texts say more in a word than questions do
_SHARE = 0.1  # of the texts have a word that tells nothing
_LEAST = 10  # pairs above a threshold, to say where it is


def calibrate(
    snapshot: Snapshot,
    false_positive_rate: float,
    seed: int,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    queries: Sequence[str] | None = None,
) -> Calibration:
    """Find the score that a query and a text drawn at random exceed with a given probability.

    Queries are shorter than texts and score lower: compared with each other, texts would set the bar too high. Nor are
    all texts at random strangers: a pair that shares a word of which less than a tenth of the texts know is left out.

    ``embed`` makes unit vectors of queries; without it, texts are compared with texts. ``queries`` are examples of
    what is asked; by default up to 5 words in a row of texts of the index, which are not compared with their own text.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1, not {false_positive_rate}.")
    draw = np.random.default_rng(seed)
    rows = np.sort(draw.permutation(snapshot.rows())[:_SAMPLE])
    contents = [segment.passage(row) for segment, row in map(snapshot.locate, rows.tolist())]
    texts = pa.array(contents, pa.large_string()).dictionary_encode().indices.to_numpy()  # equal texts are one
    vectors = snapshot.vectors.take(rows)
    kind: Literal["given", "parts", "texts"]
    if embed is None:
        kind, asked, own = "texts", contents, texts
    elif queries is not None:
        kind, asked, own = "given", list(queries), np.full(len(queries), -1)
    else:
        kind, chosen = "parts", np.sort(draw.permutation(len(rows))[:_QUERIES])
        asked, own = [_part(contents[row], draw) for row in chosen.tolist()], texts[chosen]
    different = (own[:, None] != texts[None]) & ~_related(asked, contents, snapshot.language)
    if kind == "texts":
        different = np.triu(different, 1)  # each pair once
    pairs = int(different.sum())
    if pairs * false_positive_rate < _LEAST:
        raise ValueError(
            f"A rate of {false_positive_rate:g} cannot be seen in the {pairs:,} pairs of unrelated texts here: ask "
            f"for at least {_LEAST / max(pairs, 1):.2g}, or pass a number as threshold."
        )
    sides = vectors
    if embed is not None:  # a few at a time, since other searches wait meanwhile
        sides = np.concatenate([embed(asked[at : at + _AT_A_TIME]) for at in range(0, len(asked), _AT_A_TIME)])
    scores = (sides @ vectors.T)[different].clip(-1, 1)
    threshold = float(np.quantile(scores, 1 - false_positive_rate, method="higher"))
    return Calibration(threshold, float(false_positive_rate), pairs, snapshot.count, kind)


def _related(asked: list[str], texts: list[str], language: str | None) -> np.ndarray:
    """Whether a query and a text share a word that tells something, shape (queries, texts), bool."""
    if not asked or not texts:
        return np.zeros((len(asked), len(texts)), bool)
    rows, codes, distinct = words.terms(pa.array([*texts, *asked], pa.large_string()), language)
    shape = (len(texts) + len(asked), len(distinct))
    has = csr_array((np.ones(len(rows), np.float32), (rows, codes)), shape) > 0
    known = has[: len(texts)].sum(axis=0)
    telling = has[:, np.flatnonzero(known <= max(1, _SHARE * len(texts)))].astype(np.float32)
    return (telling[len(texts) :] @ telling[: len(texts)].T).toarray() > 0


def _part(text: str, draw: np.random.Generator) -> str:
    split = text.split()
    start = int(draw.integers(max(1, len(split) - _WORDS + 1)))
    return " ".join(split[start : start + _WORDS])
