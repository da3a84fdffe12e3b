"""Tuning that cannot make a model worse unnoticed: it is measured on texts set aside, and taken back if it did."""

from __future__ import annotations

import logging
import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from sentence_transformers_mirror.evidence.parts import Parts, split_parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement, judge, measure
from sentence_transformers_mirror.texts.sentences import split_sentences, split_title
from sentence_transformers_mirror.training.modes import modes_kept
from sentence_transformers_mirror.training.recipes import Recipe

logger = logging.getLogger(__name__)

Context = Callable[[], AbstractContextManager]

_EVALUATIONS = 2  # while tuning, the last at its end; one more comes before it, and one after
_MOST = 1_000  # documents held out
_SHARE_OF_TEXTS = 0.1  # that may be held out
_SHARE_OF_TIME = 0.1  # that measuring may take, by the characters read; 15% leaves room for padding
_STRUCTURED = 0.5  # of the texts must be of two sentences or more, or of
_SAMPLE = 1_000  # of them
_CHARACTERS = 5  # a token, about


def hold_out(dataset: Dataset, recipe: Recipe, seed: int, by_titles: bool = False) -> tuple[Dataset, Parts | None]:
    """The texts to tune on, none of them set aside under another title, and the parts of those set aside, if any.

    They are asked by their first sentences, which no recipe teaches to find the rest, or with ``by_titles``, where
    most are single sentences, by their titles, which must then not be taught.
    """
    texts = dataset["text"]
    titles = dataset["title"] if "title" in dataset.column_names else None

    def document(row: int) -> tuple[str, str]:
        return ("", texts[row]) if titles is None else split_title(titles[row], texts[row])

    longest = _CHARACTERS * recipe.max_length
    sample = random.Random(seed).sample(range(len(texts)), min(_SAMPLE, len(texts)))
    structure = "first"
    # The beginning of a document tells, and is all that is read of it.
    structured = [row for row in sample if len(list(split_sentences(document(row)[1][: 2 * longest]))) > 1]
    if by_titles and len(structured) < _STRUCTURED * len(sample):
        structure = "title"
        structured = [row for row in sample if document(row)[0]]
    if len(structured) < _STRUCTURED * len(sample):
        return dataset, None
    # A view is read forwards and backwards, which costs three times as much as reading, and there are two of them; of
    # a document they are parts, about a half each.
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
    try:
        parts = split_parts(chosen.values(), structure, seed=seed)
    except ValueError:  # they are fewer than 50, or too few are different
        return dataset, None
    left = [row for row in range(len(texts)) if row not in chosen]
    if titles is not None:
        aside = {document(row)[1] for row in chosen}
        bodies = [split_title(*one)[1] for one in zip(titles, texts, strict=True)]
        left = [row for row in left if bodies[row] not in aside]
    return dataset.select(left), parts


class Candidate(NamedTuple):
    """Weights that were measured on the texts that were held out."""

    measurement: Measurement
    step: int  # that the weights were taken at
    averaged: bool  # whether they are the mean of that step's and the original ones
    weights: dict[str, torch.Tensor]  # a copy


@dataclass(frozen=True)
class Guarded:
    """What the guard found and did."""

    evidence: Evidence  # on the weights that it liked best
    kept_step: int  # whose weights the model has; 0 are the original ones, given back because these were worse
    averaged: bool  # whether the model has the mean of that step's and the original weights, because it was better
    seconds: float  # that measuring took


class Guard(TrainerCallback):
    """Measures the model before, on the way and at the end, and keeps the best weights.

    At the end it also measures the mean of the best step's and the original weights, which forgets less of what the
    model knew (WiSE-FT, arXiv 2109.01903) and undoes the harm of a rate that is somewhat too high.
    """

    def __init__(self, model: SentenceTransformer, parts: Parts, autocast: Context, prompt: str | None = None) -> None:
        self.model, self.parts, self.autocast, self.prompt = model, parts, autocast, prompt
        self.before: Measurement
        self.best: Candidate | None = None
        self.seconds = 0.0  # that measuring took
        self._measured = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.before = self._measure()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        turns = range(1, 1 + _EVALUATIONS)
        if state.global_step in [math.ceil(state.max_steps * turn / _EVALUATIONS) for turn in turns]:
            self._look(state.global_step)

    def finish(self, step: int, original: dict[str, torch.Tensor], keep_worse: bool, seed: int) -> Guarded:
        """After the last step, leave the model with the best weights, or the original ones if the best are worse."""
        best = self.best if self.best and self._measured == step else self._look(step)  # Ctrl-C may have come between
        with suppress(KeyboardInterrupt):  # all steps are taken; the best so far is kept
            mean = {
                name: (tensor + original[name]) / 2 if tensor.is_floating_point() else tensor
                for name, tensor in best.weights.items()
            }
            self.model.load_state_dict(mean)
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
