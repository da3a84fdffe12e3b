"""Tuning that cannot make a model worse unnoticed: it is measured on texts set aside, and taken back if it did."""

from __future__ import annotations

import logging
import math
import random
import statistics
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from transformers import TrainerCallback

from sentence_transformers_mirror.evidence.parts import Parts, split_parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement, judge, measure
from sentence_transformers_mirror.texts.sentences import split_sentences, split_title
from sentence_transformers_mirror.training.modes import modes_kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentence_transformers import SentenceTransformer

    from sentence_transformers_mirror.training.recipes import Recipe

logger = logging.getLogger(__name__)

_EVALUATIONS = 2  # while tuning, the last at its end; one more comes before it, and one after
_LEAST, _MOST = 50, 1_000  # documents held out
_SHARE_OF_TEXTS = 0.1  # that may be held out
_SHARE_OF_TIME = 0.1  # that measuring may take, by the characters read; 15% leaves room for padding
_STRUCTURED = 0.5  # of the texts must be of two sentences or more, or of
_SAMPLE = 1_000  # of them
_CHARACTERS = 5  # a token, about


def hold_out(dataset: Dataset, recipe: Recipe, seed: int, by_titles: bool = False) -> tuple[Dataset, Parts | None]:
    """Set documents aside that tuning will not see.

    They are asked by their first sentences, which no recipe teaches to find the rest.

    Args:
        dataset: Texts, in a column ``text``, and perhaps their titles, in a column ``title``.
        recipe: How they will be tuned on, which says how much measuring may cost.
        seed: Seed for choosing the texts that are set aside.
        by_titles: Whether documents of a single sentence may be asked by their titles instead. These must then not be
            taught: see `DocumentViews.teaches`.

    Returns:
        The texts to tune on, and the parts of the others; all texts and None where most have no such structure, or
        there are too few. No text that is set aside is tuned on under another title.
    """
    texts = dataset["text"]
    titles = dataset["title"] if "title" in dataset.column_names else None

    def document(row: int) -> tuple[str, str]:
        return ("", texts[row]) if titles is None else split_title(titles[row], texts[row])

    sample = random.Random(seed).sample(range(len(texts)), min(_SAMPLE, len(texts)))
    structure = "first"
    # The beginning of a document tells, and is all that is read of it.
    begin = 2 * _CHARACTERS * recipe.max_length
    structured = [row for row in sample if len(list(split_sentences(document(row)[1][:begin]))) > 1]
    if by_titles and len(structured) < _STRUCTURED * len(sample):
        structure = "title"
        structured = [row for row in sample if document(row)[0]]
    if len(structured) < _STRUCTURED * len(sample):
        return dataset, None
    # A view is read forwards and backwards, which costs three times as much as reading, and there are two of them; of
    # a document they are parts, about a half each.
    longest = _CHARACTERS * recipe.max_length
    read = statistics.mean(min(len(texts[row]), longest) for row in sample) * (2 if recipe.views is None else 1)
    budget = _SHARE_OF_TIME * 3 * recipe.epochs * read * len(texts)
    chosen: dict[int, tuple[str, str]] = {}
    for row in structured[: min(_MOST, int(_SHARE_OF_TEXTS * len(texts)))]:
        title, text = document(row)
        # The beginning of a long document is enough to know it by: a first sentence, and as much again.
        text = text if len(text) <= 2 * longest else text[: 2 * longest].rsplit(" ", 1)[0]
        budget -= (2 + _EVALUATIONS) * len(text)
        if budget < 0:
            break
        chosen[row] = title, text
    if len(chosen) < _LEAST:
        return dataset, None
    try:
        parts = split_parts(chosen.values(), structure, seed=seed)
    except ValueError:  # too few are different
        return dataset, None
    left = [row for row in range(len(texts)) if row not in chosen]
    if titles is not None:
        aside = {document(row)[1] for row in chosen}
        bodies = [split_title(*one)[1] for one in zip(titles, texts, strict=True)]
        left = [row for row in left if bodies[row] not in aside]
    return dataset.select(left), parts


@dataclass(frozen=True)
class Candidate:
    """Weights that were measured.

    Args:
        measurement: The measurement on the texts that were held out.
        step: The step that the weights were taken at.
        averaged: Whether they are the mean of that step's and the original ones.
        weights: A copy of the weights.
    """

    measurement: Measurement
    step: int
    averaged: bool
    weights: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Guarded:
    """What the guard found and did.

    Attributes:
        evidence: On the weights that it liked best.
        kept_step: The step whose weights the model has; 0 are the original ones, given back because these were worse.
        averaged: Whether the model has the mean of that step's and the original weights, because it was better.
        seconds: Time that measuring took.
    """

    evidence: Evidence
    kept_step: int
    averaged: bool
    seconds: float


class Guard(TrainerCallback):
    """Measures the model before, on the way and at the end, and keeps the best weights.

    At the end it also measures the mean of the best step's and the original weights, which forgets less of what the
    model knew (WiSE-FT, arXiv 2109.01903). In benchmarks/verdict.py that undoes the harm of a learning rate that is
    somewhat too high, and not that of one far too high.

    Args:
        model: The model that is tuned.
        parts: Parts of texts that the model is not tuned on.
        autocast: Makes the context in which the model is measured.
        prompt: The prompt to put before each text.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        parts: Parts,
        autocast: Callable[[], AbstractContextManager],
        prompt: str | None = None,
    ) -> None:
        self.model, self.parts, self.autocast, self.prompt = model, parts, autocast, prompt
        self.before: Measurement
        self.best: Candidate | None = None
        self.seconds = 0.0  # that measuring took
        self._steps: set[int] = set()
        self._measured = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.before = self._measure()
        self._steps = {math.ceil(state.max_steps * turn / _EVALUATIONS) for turn in range(1, 1 + _EVALUATIONS)}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step in self._steps:
            self._look(state.global_step)

    def finish(self, step: int, original: dict[str, torch.Tensor], keep_worse: bool, seed: int) -> Guarded:
        """Leave the model with the best weights, or the original ones if the best are worse.

        Args:
            step: The last one that was taken, at least 1.
            original: The weights before the first step.
            keep_worse: Whether to keep the best even if they are worse than the original ones.
            seed: Seed for the bootstrap.

        Returns:
            What was found on the best, and which weights the model has now.
        """
        best = self.best
        if best is None or self._measured != step:  # Ctrl-C
            best = self._look(step)
        with suppress(KeyboardInterrupt):  # all steps are taken; the best so far is kept
            self.model.load_state_dict({name: _mean(tensor, original[name]) for name, tensor in best.weights.items()})
            best = self._look(best.step, averaged=True)
        evidence = judge(self.before, best.measurement, self.parts, seed=seed)
        if evidence.verdict == "worse" and not keep_worse:
            logger.warning(
                f"Tuning made the model worse on {evidence.documents} texts held out (mean reciprocal rank "
                f"{evidence.difference:+.3f}, 95% interval {evidence.low:+.3f} to {evidence.high:+.3f}); it has its "
                "original weights back. Try a lower learning rate, or keep_worse=True."
            )
            self.model.load_state_dict(original)
            return Guarded(evidence, 0, False, self.seconds)
        self.model.load_state_dict(best.weights)
        return Guarded(evidence, best.step, best.averaged, self.seconds)

    def _look(self, step: int, averaged: bool = False) -> Candidate:
        """Measure the weights; gives the best so far."""
        try:
            measurement = self._measure()
        except ValueError as error:
            raise FloatingPointError(
                f"Embeddings are not numbers after step {step}: the learning rate is likely too high; try a tenth of "
                "it. The model has its original weights back."
            ) from error
        self._measured = step
        if self.best is None or measurement.ranks.mean() > self.best.measurement.ranks.mean():
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.best = Candidate(measurement, step, averaged, weights)
        return self.best

    def _measure(self) -> Measurement:
        start = time.perf_counter()
        with self.autocast(), modes_kept(self.model):  # encode leaves it in evaluation mode
            measurement = measure(self.model, self.parts, prompt=self.prompt)
        self.seconds += time.perf_counter() - start
        return measurement


def _mean(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a + b) / 2 if a.is_floating_point() else a
