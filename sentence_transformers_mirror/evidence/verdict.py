"""Did tuning help, on these texts, where nobody has labelled anything?

Texts have structure that an encoder is not told of: a title belongs to its body, a first sentence to the rest, one
half to the other. Each first part ranks all second parts, and those that share its words; if the tuned model ranks
the right ones higher on texts that it was not tuned on, it is better there. Ranking, and not similarity, is what is
known to follow the quality on users' tasks (EvalRank, arXiv 2203.02679).
"""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.evidence import geometry
from sentence_transformers_mirror.evidence.parts import SINGLE, Parts, split_parts
from sentence_transformers_mirror.evidence.ranking import reciprocal_ranks
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.texts.files import refuse_no_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Verdict = Literal["better", "worse", "no evidence", "damaged"]

# Calibrated on runs with labels (benchmarks/verdict.py): a gain is right as soon as it is sure, a small loss is not.
LEAST_GAIN, LEAST_LOSS = 0.001, 0.08
_RESAMPLES = 2_000
_BLOCK = 100  # resamples at a time, to bound memory


@dataclass(frozen=True)
class Measurement:
    """How a model ranks the parts: a reciprocal rank for each pair, float64, shape (pairs,)."""

    queries: np.ndarray  # unit vectors, float32, shape (pairs, dim)
    passages: np.ndarray  # unit vectors, float32, shape (pairs, dim)
    everywhere: np.ndarray  # ranks of passages among all
    among_look_alikes: np.ndarray  # and among those that share the most telling words
    geometry: dict[str, float]  # of the passages, by `geometry.describe`
    backwards: np.ndarray  # mean of both ranks where the passage asks for its query

    @property
    def ranks(self) -> np.ndarray:
        """Mean of both kinds and both directions, which is what the verdict is about."""
        return ((self.everywhere + self.among_look_alikes) / 2 + self.backwards) / 2


@dataclass(frozen=True)
class Evidence:
    """A verdict and what it rests on.

    Attributes:
        verdict: ``better``, ``worse`` or ``no evidence``; ``damaged`` or ``no evidence`` on single sentences.
        difference: Change of the mean reciprocal rank, over both directions, after minus before, -1 to 1.
        low: Lower end of the 95% interval of the change, over documents.
        high: Upper end of the same interval.
        before: ``everywhere`` and ``among look-alikes``, mean reciprocal ranks, and the geometry, which has no vote.
        after: The same numbers after tuning.
        words: The same two ranks of TF-IDF, the floor that an encoder must clear to be worth its cost.
        pairs: Number of pairs of parts that were ranked.
        documents: Number of texts that the pairs are from.
        structure: What the parts are.
        least_gain: Rise that would have counted.
        least_loss: Fall that would have counted.

    Example:
        >>> from sentence_transformers_mirror import compare, embedded_model_path
        >>> texts = [f"House {number} has a garden. It was built in {1800 + number}." for number in range(60)]
        >>> evidence = compare(embedded_model_path(), embedded_model_path(), texts)
        >>> evidence.documents, sorted(evidence.words)
        (60, ['among look-alikes', 'everywhere'])
    """

    verdict: Verdict
    difference: float
    low: float
    high: float
    before: dict[str, float]
    after: dict[str, float]
    words: dict[str, float]
    pairs: int
    documents: int
    structure: str
    least_gain: float
    least_loss: float

    def summary(self) -> str:
        """A few lines that say what was found."""
        lines = [
            f"{self.verdict}: mean reciprocal rank {self.difference:+.3f} (95% interval {self.low:+.3f} to "
            f"{self.high:+.3f})",
            f"{self.pairs:,} pairs of {self.documents:,} texts: {self.structure}",
            "",
            f"{'':15}everywhere   among look-alikes",
        ]
        for name, ranks in (("before", self.before), ("after", self.after), ("words (TF-IDF)", self.words)):
            lines.append(f"{name:15}{ranks['everywhere']:10.3f}{ranks['among look-alikes']:20.3f}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"


def compare(
    before: SentenceTransformer | str | Path,
    after: SentenceTransformer | str | Path,
    texts: str | Path | Iterable[str | tuple[str, str]],
    *,
    structure: str = "auto",
    language: str = "en",
    max_documents: int = 1_000,
    least_gain: float = LEAST_GAIN,
    least_loss: float = LEAST_LOSS,
    seed: int = 0,
) -> Evidence:
    """Say whether one model is better than another on texts without labels.

    Args:
        before: A model, or its name or path; it is loaded once the texts were found to be of use.
        after: Another model, or the same one after tuning.
        texts: Documents that neither was tuned on: strings, or pairs of title and text; or a file of them, as for
            `load_corpus`.
        structure: How texts are cut: ``first``, ``title``, ``halves``, ``neighbours``, ``single`` or ``auto``.
        language: The language of the texts, an ISO 639-1 code, by which sentences are found.
        max_documents: Largest number of documents; more are sampled.
        least_gain: Rise of the mean reciprocal rank that the whole interval must exceed for *better*.
        least_loss: Fall that it must exceed for *worse*.
        seed: Seed for samples and for the bootstrap.

    Returns:
        The verdict with its numbers; the same arguments give the same.

    Raises:
        OSError: If a model cannot be loaded.
        ValueError: If there are fewer than 50 texts, or a model makes vectors that are not numbers.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import compare, embedded_model_path
        >>> model = SentenceTransformer(embedded_model_path())
        >>> texts = [f"House {number} has a garden. It was built in {1800 + number}." for number in range(60)]
        >>> evidence = compare(model, model, texts)  # a model is no better than itself
        >>> evidence.verdict, evidence.difference
        ('no evidence', 0.0)
    """
    if isinstance(texts, (str, Path)):
        from sentence_transformers_mirror.texts.corpus import load_corpus

        dataset = load_corpus(texts)[0]
        titled = "title" in dataset.column_names
        texts = zip(dataset["title"], dataset["text"], strict=True) if titled else dataset["text"]
    refuse_no_texts(texts)
    parts = split_parts(texts, structure, language=language, max_documents=max_documents, seed=seed)
    first, second = (measure(load_model(model), parts, called=called(model)) for model in (before, after))
    return judge(first, second, parts, least_gain, least_loss, seed)


def called(model: SentenceTransformer | str | Path) -> str:
    """What a complaint calls a model: by its name or path, where it was given by that."""
    return f"The model {str(model)!r}" if isinstance(model, (str, Path)) else "The model"


def measure(
    model: SentenceTransformer, parts: Parts, prompt: str | None = None, called: str = "The model"
) -> Measurement:
    """Rank the parts with a model, by default with its default prompt; ``called`` is its name in a complaint."""
    queries, passages = np.split(embed(model, [*parts.queries, *parts.passages], prompt=prompt), 2)
    if not (np.isfinite(queries).all() and np.isfinite(passages).all()):
        raise ValueError(
            f"{called} makes vectors that are not numbers: load it anew, or leave out what it cannot read."
        )
    everywhere = reciprocal_ranks(queries, passages)
    return Measurement(
        geometry.unit(queries),
        geometry.unit(passages),
        everywhere,
        reciprocal_ranks(queries, passages, parts.rivals),
        geometry.describe(passages, queries, passages),
        # Asked both ways, chance has less of a say, and no text is embedded for it.
        (reciprocal_ranks(passages, queries) + reciprocal_ranks(passages, queries, parts.rivals)) / 2,
    )


def judge(
    before: Measurement,
    after: Measurement,
    parts: Parts,
    least_gain: float = LEAST_GAIN,
    least_loss: float = LEAST_LOSS,
    seed: int = 0,
) -> Evidence:
    """The verdict on two measurements of the same parts; arguments as in `compare`."""
    differences = after.ranks - before.ranks
    low, high = bootstrap(differences, parts.documents, seed)
    verdict: Verdict = "no evidence"
    if high < -least_loss:
        verdict = "damaged" if parts.structure == SINGLE else "worse"
    elif low > least_gain and parts.structure != SINGLE:
        verdict = "better"
    return Evidence(
        verdict,
        float(differences.mean()),
        low,
        high,
        {**_means(before.everywhere, before.among_look_alikes), **before.geometry},
        {**_means(after.everywhere, after.among_look_alikes), **after.geometry},
        _means(*parts.words),
        len(parts.queries),
        parts.texts,
        parts.structure,
        least_gain,
        least_loss,
    )


def against_words(model: Measurement, parts: Parts, seed: int = 0) -> tuple[float, float, float]:
    """How far a model is ahead of TF-IDF where queries ask: in mean reciprocal rank, with its 95% interval."""
    everywhere, among_look_alikes = parts.words
    ahead = (model.everywhere - everywhere + model.among_look_alikes - among_look_alikes) / 2
    return float(ahead.mean()), *bootstrap(ahead, parts.documents, seed)


def bootstrap(values: np.ndarray, documents: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of a mean, by drawing documents with replacement, each with all of its values."""
    numbers = np.unique(documents, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(0, _RESAMPLES, _BLOCK):
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_BLOCK)
        means.append(drawn @ sums / (drawn @ counts))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def _means(everywhere: np.ndarray, among_look_alikes: np.ndarray) -> dict[str, float]:
    return {"everywhere": float(everywhere.mean()), "among look-alikes": float(among_look_alikes.mean())}
