"""Hyper-parameters that belong together, each with its source.

Sections, tables and figures are those of the Mirror-BERT paper (arXiv 2104.08027); "code" is its released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.training.document_views import DocumentViews


@dataclass(frozen=True)
class Recipe:
    """What `mirror_tune` does with the texts.

    Attributes:
        temperature: The number, above 0, that cosine similarities are divided by in the loss.
        mask: Part of a text's characters that the second view hides, in (0, 1), or None for no mask.
        mask_min_length: Texts of fewer characters are not masked.
        dropout: Rate of all dropout in the transformer, in [0, 1), or None for the model's own.
        drophead: Rate at which attention heads are dropped, in [0, 1); 0 for none.
        learning_rate: Learning rate of AdamW; None for one that suits the size of the model.
        warm_up: Share of the steps, in [0, 1), over which the learning rate rises from 0.
        decay: Whether the learning rate falls to 0 afterwards, linearly; otherwise it is constant.
        weight_decay: Weight decay of AdamW.
        epochs: Number of passes over the texts.
        batch_size: Number of texts in a step; the other texts in it are the negatives.
        mini_batch_size: Rows embedded at a time with their gradients cached, for a batch that does not fit into
            memory; None for all at once, which is faster.
        max_length: Number of tokens that tuning reads of a text; the model keeps its own limit afterwards.
        ignore_duplicates: Whether equal texts in a batch are left out of each other's negatives.
        views: What makes the two views of a document; None for the same text twice, with mask and dropout.

    Example:
        >>> from dataclasses import replace
        >>> from sentence_transformers_mirror import RECIPES
        >>> mine = replace(RECIPES["sentence"], epochs=2, batch_size=400)
        >>> mine.temperature, mine.epochs
        (0.04, 2)
    """

    temperature: float
    mask: float | None
    max_length: int
    mask_min_length: int = 30  # code: shorter strings are not masked
    dropout: float | None = 0.1  # Table 12: 0.1 for all models
    drophead: float = 0.0
    learning_rate: float | None = 2e-5  # Table 21, constant and without warm-up in the code
    warm_up: float = 0.0
    decay: bool = False
    weight_decay: float = 0.01  # code
    epochs: int = 1  # Table 21
    batch_size: int = 200  # Table 21
    mini_batch_size: int | None = None
    ignore_duplicates: bool = True  # ours: the paper's 10k sentences repeat 719, each a false negative
    views: DocumentViews | None = None


# Section 3: "sentence level"; mask of 0.1: 5 characters are 9.8% of the sentences that the code masks (Table 13).
_SENTENCE = Recipe(temperature=0.04, mask=0.1, max_length=50)

RECIPES = {
    "sentence": _SENTENCE,
    # For models of a few million parameters that 50 steps of 2e-5 move too little: DropHead alone was better than
    # dropout and mask on one of 8M. On the embedded model `sentence` is (benchmarks/results.md).
    "sentence-small": replace(_SENTENCE, learning_rate=1e-4, mask=None, dropout=0.0, drophead=0.2),
    # Table 3: instead of dropout; 0.2 for BERT (0.05 for RoBERTa, to be given as drophead=0.05)
    "sentence-drophead": replace(_SENTENCE, dropout=0.0, drophead=0.2),
    # Section 3 and code, "word level": two epochs, no mask, a temperature five times as high
    "word": Recipe(temperature=0.2, mask=None, max_length=25, epochs=2),
    # Section 3, "phrase level", biomedical names: a mask of 2 characters, which the code applies to long names only
    "phrase": Recipe(temperature=0.04, mask=0.1, max_length=25, epochs=2),
    # Ours, for documents to be searched: what is known of it, and what was measured, is in docs/tuning-for-search.md.
    "search": Recipe(
        temperature=0.05,
        mask=None,
        max_length=96,
        learning_rate=None,
        warm_up=0.1,
        decay=True,
        epochs=3,
        batch_size=64,
        views=DocumentViews(),
    ),
}


def learning_rate_for(parameters: int) -> float:
    """A rate for a masked language model: 2e-5 for 110 million parameters, in inverse proportion, at most 3e-4."""
    return min(3e-4, 2e-5 * 110e6 / max(1, parameters))


def resolve(recipe: str | Recipe, **overrides: object) -> Recipe:
    """The recipe of a name, or a recipe itself, with some fields replaced; a ValueError names what is of no use."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            names = ", ".join(RECIPES)
            raise ValueError(f"There is no recipe {recipe!r}{_suggest(recipe, RECIPES)}; the recipes are {names}.")
        recipe = RECIPES[recipe]
    known = Recipe.__dataclass_fields__
    for name in overrides:
        if name not in known:
            raise ValueError(f"A recipe has no {name!r}{_suggest(name, known)}; it has {', '.join(known)}.")
    recipe = replace(recipe, **{name: plain(value) for name, value in overrides.items()})
    _check(recipe)
    return recipe


def _suggest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


# What a value is, by the annotation of its field.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
    "DocumentViews": ((DocumentViews,), "a DocumentViews"),
}
_SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: value > 0, "above 0 (0.04 for sentences, 0.2 for words)"),
    "mask": (lambda value: 0 < value < 1, "between 0 and 1"),
    "max_length": (lambda value: value >= 3, "at least 3"),
    "dropout": _SHARE,
    "drophead": _SHARE,
    "learning_rate": (lambda value: value > 0, "above 0"),
    "warm_up": _SHARE,
    "epochs": (lambda value: value >= 1, "at least 1"),
    "batch_size": (lambda value: value >= 2, "at least 2, since the other texts of a batch are the negatives"),
    "mini_batch_size": (lambda value: value >= 1, "at least 1"),
}


def _check(recipe: Recipe) -> None:
    for field in fields(recipe):
        name, value = field.name, getattr(recipe, field.name)
        kind, _, none = str(field.type).partition(" | ")
        if none and value is None:
            continue
        kinds, what = _KINDS[kind]
        right = isinstance(value, kinds) and isinstance(value, bool) == (kind == "bool")  # a bool is an int, too
        if not right or isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be {what}{' or None' if none else ''}, not {quoted(value)}.")
        if name in _RANGES:
            holds, where = _RANGES[name]
            if not holds(value):
                raise ValueError(f"{name} must be {'None or ' if none else ''}{where}, not {value!r}.")
    if recipe.views is not None and recipe.mask is not None:
        raise ValueError("Views of documents are not masked; pass mask=None, or views=None for masked single texts.")
    if recipe.views is None and recipe.mask is None and recipe.dropout == 0 and recipe.drophead == 0:
        raise ValueError(
            "Without mask, dropout and drophead the two views of a text would be identical, with nothing to learn "
            "from; set one of them, such as dropout=0.1."
        )
