"""A threshold that means something: the score that two unrelated texts of a corpus rarely reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from sentence_transformers_mirror.search.segments import Snapshot

_SAMPLE = 2_000  # texts, all pairs of which are compared
_LEAST = 10  # pairs above a threshold, to say where it is


def calibrate(snapshot: Snapshot, false_positive_rate: float, seed: int) -> dict[str, Any]:
    """Find the score that a pair of texts drawn at random exceeds with a given probability.

    Args:
        snapshot: Of an index.
        false_positive_rate: In (0, 1).
        seed: Of the sample.

    Returns:
        ``threshold``, ``false_positive_rate``, ``pairs`` that were compared (equal texts are not), ``texts``.

    Raises:
        ValueError: If the rate is not in (0, 1), or there are too few texts to see a rate so small.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate must be between 0 and 1, not {false_positive_rate}.")
    rows = np.sort(np.random.default_rng(seed).permutation(snapshot.rows())[:_SAMPLE])
    numbers: dict[str, int] = {}
    places = [snapshot.locate(row) for row in rows.tolist()]
    texts = np.array([numbers.setdefault(segment.text(row), len(numbers)) for segment, row in places])
    first, second = np.triu_indices(len(rows), 1)
    different = texts[first] != texts[second] if len(rows) else np.zeros(0, bool)
    pairs = int(different.sum())
    if pairs * false_positive_rate < _LEAST:
        raise ValueError(
            f"A rate of {false_positive_rate:g} cannot be seen in the {pairs:,} pairs of different texts here: ask "
            f"for at least {_LEAST / max(pairs, 1):.2g}, or pass a number as threshold."
        )
    vectors = snapshot.vectors.take(rows)
    scores = (vectors @ vectors.T)[first, second][different]
    return {
        "threshold": float(np.quantile(scores, 1 - false_positive_rate, method="higher")),
        "false_positive_rate": false_positive_rate,
        "pairs": pairs,
        "texts": snapshot.size,
    }
