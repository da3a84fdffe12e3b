"""What the report shows at one glance: ranks as bars, what tuning changed, and whether words alone do as well."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from sentence_transformers_mirror.evidence.parts import SINGLE, Parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement, against_words, bootstrap

_ROWS = (("before", "before"), ("after", "after"), ("words", "tfidf"))  # names and their classes


class Bar(NamedTuple):
    """A mean reciprocal rank and its 95% interval, all 0 to 1."""

    name: str
    tone: str
    mean: float
    low: float
    high: float


class Zone(NamedTuple):
    """A part of a strip, in percent of it."""

    tone: str
    left: float
    width: float


class Strip(NamedTuple):
    """A difference and its interval, in percent of a strip that has 0 in its middle and reaches so far both ways."""

    middle: float
    low: float
    high: float
    reach: float
    zones: list[Zone]


class Against(NamedTuple):
    """What there is to say of words alone: a sentence, and the class of its card."""

    sentence: str
    tone: str
    difference: tuple[float, float, float] | None


def bars(measured: list[Measurement], parts: Parts, seed: int) -> dict[str, list[Bar]]:
    """Before, after and TF-IDF, among all texts and among look-alikes."""
    before, after = measured
    made = {
        "everywhere": (before.everywhere, after.everywhere, parts.words[0]),
        "among look-alikes": (before.among_look_alikes, after.among_look_alikes, parts.words[1]),
    }
    return {
        where: [
            Bar(name, tone, float(ranks.mean()), *bootstrap(ranks, parts.documents, seed))
            for (name, tone), ranks in zip(_ROWS, each, strict=True)
        ]
        for where, each in made.items()
    }


def changed(found: Evidence) -> Strip:
    """What tuning changed, and from where on it counts."""
    return _strip((found.difference, found.low, found.high), -found.least_loss, found.least_gain)


def ahead(difference: tuple[float, float, float]) -> Strip:
    """How far the model is ahead of words."""
    return _strip(difference, 0, 0)


def against(after: Measurement, parts: Parts, seed: int) -> Against:
    """Whether a model earns its cost, which words alone do not have."""
    if parts.structure == SINGLE:
        return Against(
            "Whether the model is worth its cost is not seen here: the questions are the texts themselves with words "
            "hidden, so that words find them by design.",
            "no",
            None,
        )
    found = difference, low, high = against_words(after, parts, seed)
    interval = f"{abs(difference):.3f} (95% interval of the difference {low:+.3f} to {high:+.3f})"
    if high < 0:
        sentence = (
            f"Words alone (TF-IDF) are better: the model after tuning is behind them by {interval}. For search in "
            "such texts it is not worth its cost by itself: search by words, or see whether both together are better."
        )
        return Against(sentence, "worse", found)
    if low > 0:
        return Against(f"The model after tuning is ahead of words alone (TF-IDF) by {interval}.", "better", found)
    sentence = (
        f"The model after tuning is not seen to be ahead of words alone (TF-IDF): the two differ by {interval}. Words "
        "cost less."
    )
    return Against(sentence, "no", found)


def _strip(difference: tuple[float, float, float], worse: float, better: float) -> Strip:
    reach = 1.15 * max(abs(number) for number in (*difference, worse, better, 0.01))

    def place(number: float) -> float:
        return 50 + 50 * number / reach

    ends = [0.0, place(worse), place(better), 100.0]
    pairs = zip(("bad", "open", "good"), itertools.pairwise(ends), strict=True)
    zones = [Zone(tone, left, right - left) for tone, (left, right) in pairs if right > left]
    middle, low, high = map(place, difference)
    return Strip(middle, low, high, reach, zones)


def lines(found: Evidence, sentences: Iterable[str]) -> str:
    """A summary to be copied: sentences, then the numbers."""
    return "\n".join([*sentences, "", *found.summary().splitlines()[1:]])
