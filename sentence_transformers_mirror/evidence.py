"""Did tuning help, on these texts, where nobody has labelled anything?

Texts have structure that an encoder is not told of: a title belongs to its body, a first sentence to the rest, one
half to the other. Each first part ranks all second parts, and those that share its words; if the tuned model ranks
the right ones higher on texts that it was not tuned on, it is better there. Ranking, and not similarity, is what is
known to follow the quality on users' tasks (EvalRank, arXiv 2203.02679).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sentence_transformers_mirror import geometry
from sentence_transformers_mirror.document_views import TITLES, split_title
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.files import refuse_no_texts
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.ranking import look_alikes, reciprocal_ranks, tfidf_reciprocal_ranks
from sentence_transformers_mirror.sentences import split_sentences

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Verdict = Literal["better", "worse", "no evidence", "damaged"]

_LEAST_DOCUMENTS = 50  # with structure, to say anything
# Calibrated on runs with labels (benchmarks/verdict.py): a gain is right as soon as it is sure, a small loss is not.
LEAST_GAIN, LEAST_LOSS = 0.001, 0.08
_RESAMPLES = 2_000
_BLOCK = 100  # resamples at a time, to bound memory
_READ = 20_000  # characters of a text
_HIDDEN = 0.3  # of the words of a single sentence
SINGLE = "single sentences"


@dataclass(frozen=True)
class Parts:
    """Parts of texts that belong together.

    Args:
        queries: Texts.
        passages: Texts, as many; number i belongs to query i.
        documents: Number of the document that each pair is from, int64, shape (pairs,), ascending.
        structure: What a query and its passage are to each other.
    """

    queries: list[str]
    passages: list[str]
    documents: np.ndarray
    structure: str


@dataclass(frozen=True)
class Measurement:
    """How a model ranks the parts.

    Args:
        queries: Unit vectors, float32, shape (pairs, dim).
        passages: Unit vectors, float32, shape (pairs, dim).
        everywhere: Reciprocal rank of each passage among all, float64, shape (pairs,).
        among_look_alikes: Among the passages that share the most telling words with it.
        geometry: What `geometry.describe` says of the passages.
        backwards: Mean of the same two where the passage asks for its query, shape (pairs,).
    """

    queries: np.ndarray
    passages: np.ndarray
    everywhere: np.ndarray
    among_look_alikes: np.ndarray
    geometry: dict[str, float]
    backwards: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """Mean of both kinds and both directions, which is what the verdict is about."""
        return ((self.everywhere + self.among_look_alikes) / 2 + self.backwards) / 2


@dataclass(frozen=True)
class Evidence:
    """A verdict and what it rests on.

    Attributes:
        verdict: ``better``, ``worse`` or ``no evidence``; ``damaged`` or ``no evidence`` on single sentences.
        difference: Of the mean reciprocal ranks, over both directions, after minus before, -1 to 1.
        low: Lower end of its 95% interval over documents.
        high: Upper end.
        before: ``everywhere`` and ``among look-alikes``, mean reciprocal ranks, and the geometry, which has no vote.
        after: The same.
        words: The same two ranks of TF-IDF, the floor that an encoder must clear to be worth its cost.
        pairs: Parts ranked.
        documents: Texts they are from.
        structure: What the parts are.
        least_gain: Rise that would have counted.
        least_loss: Fall that would have counted.
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
        after: Another one, or the same after tuning.
        texts: Documents that neither was tuned on: strings, or pairs of title and text; or a file of them, as for
            `load_corpus`.
        structure: As in `split_parts`.
        language: Of the texts, an ISO 639-1 code, for finding sentences.
        max_documents: More are sampled.
        least_gain: Rise of the mean reciprocal rank that the whole interval must exceed for *better*.
        least_loss: Fall that it must exceed for *worse*.
        seed: Of samples and of the bootstrap.

    Returns:
        The verdict with its numbers; the same arguments give the same.

    Raises:
        OSError: If a model cannot be loaded.
        ValueError: If there are fewer than 50 texts, or a model makes vectors that are not numbers.
    """
    if isinstance(texts, (str, Path)):
        from sentence_transformers_mirror.corpus import load_corpus

        dataset = load_corpus(texts)[0]
        titled = "title" in dataset.column_names
        texts = zip(dataset["title"], dataset["text"], strict=True) if titled else dataset["text"]
    refuse_no_texts(texts)
    parts = split_parts(texts, structure, language=language, max_documents=max_documents, seed=seed)
    rivals = look_alikes(parts.passages)
    measured = [measure(load_model(model), parts, rivals) for model in (before, after)]
    return judge(*measured, parts, rivals, least_gain, least_loss, seed)


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
        max_documents: More are sampled.
        seed: Of the sample and of the hidden words.

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
    texts, titled = [body for _, body in documents], [document for document in documents if document[0]]
    if structure == "single":
        parts = _singles(texts, max_documents, seed)
    elif structure == "title":
        parts = _titles(titled, max_documents)
    else:
        cut, words = _STRUCTURES["first" if structure == "auto" else structure]
        # A model reads no more of a text.
        sentences = (list(split_sentences(text[:_READ], language)) for text in texts)
        parts = _distinct(map(cut, sentences), max_documents, words)
        if structure == "auto" and _documents(parts) < _LEAST_DOCUMENTS:
            parts = _titles(titled, max_documents) if titled else _singles(texts, max_documents, seed)
    if _documents(parts) < _LEAST_DOCUMENTS:
        raise ValueError(
            f"Only {_documents(parts)} of {len(texts)} texts have parts to rank ({parts.structure}), and "
            f"{_LEAST_DOCUMENTS} are needed to say anything: give more texts."
        )
    if (used := _documents(parts)) < min(max_documents, len(texts)) / 2:
        logger.warning(
            f"Only {used:,} of {len(texts):,} texts have such parts ({parts.structure}), and the others do not count."
        )
    return parts


def measure(
    model: SentenceTransformer,
    parts: Parts,
    rivals: np.ndarray,
    prompt: str | None = None,
) -> Measurement:
    """Rank the parts with a model.

    Args:
        model: Any.
        parts: Of `split_parts`.
        rivals: ``look_alikes(parts.passages)``.
        prompt: Put before each text; by default the model's own default prompt, if it has one.
    """
    queries, passages = np.split(embed(model, [*parts.queries, *parts.passages], prompt=prompt), 2)
    everywhere = reciprocal_ranks(queries, passages)  # complains about vectors that are not numbers
    return Measurement(
        geometry.unit(queries),
        geometry.unit(passages),
        everywhere,
        reciprocal_ranks(queries, passages, rivals),
        geometry.describe(passages, queries, passages),
        # Asked both ways, chance has less of a say, and no text is embedded for it.
        (reciprocal_ranks(passages, queries) + reciprocal_ranks(passages, queries, rivals)) / 2,
    )


def judge(
    before: Measurement,
    after: Measurement,
    parts: Parts,
    rivals: np.ndarray,
    least_gain: float = LEAST_GAIN,
    least_loss: float = LEAST_LOSS,
    seed: int = 0,
) -> Evidence:
    """The verdict on two measurements of the same parts; arguments as in `compare` and `measure`."""
    differences = after.ranks - before.ranks
    low, high = bootstrap(differences, parts.documents, seed)
    verdict: Verdict = "no evidence"
    if high < -least_loss:
        verdict = "damaged" if parts.structure == SINGLE else "worse"
    elif low > least_gain and parts.structure != SINGLE:
        verdict = "better"
    words = (
        tfidf_reciprocal_ranks(parts.queries, parts.passages),
        tfidf_reciprocal_ranks(parts.queries, parts.passages, rivals),
    )
    return Evidence(
        verdict,
        float(differences.mean()),
        low,
        high,
        {**_means(before.everywhere, before.among_look_alikes), **before.geometry},
        {**_means(after.everywhere, after.among_look_alikes), **after.geometry},
        _means(*words),
        len(parts.queries),
        _documents(parts),
        parts.structure,
        least_gain,
        least_loss,
    )


def bootstrap(values: np.ndarray, documents: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of a mean, by drawing documents with replacement 2,000 times.

    Args:
        values: Shape (n,).
        documents: The document of each value, integers, shape (n,): values of one document are drawn together.
        seed: Of the draws.
    """
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


def _documents(parts: Parts) -> int:
    return len(np.unique(parts.documents))


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


def _titles(titled: Sequence[tuple[str, str]], max_documents: int) -> Parts:
    return _distinct(([document] for document in titled), max_documents, TITLES)


def _singles(texts: Sequence[str], max_documents: int, seed: int) -> Parts:
    draw = random.Random(seed)

    def hide(text: str) -> list[tuple[str, str]]:
        words = text.split()
        hidden = set(draw.sample(range(len(words)), round(_HIDDEN * len(words))))
        return [(" ".join(word for i, word in enumerate(words) if i not in hidden), text)] if hidden else []

    return _distinct(map(hide, texts), max_documents, SINGLE)


def _distinct(documents: Iterable[Sequence[tuple[str, str]]], most: int, structure: str) -> Parts:
    """What is there twice has no one right passage."""
    queries, passages, numbers, seen = [], [], [], set()
    number = 0
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
