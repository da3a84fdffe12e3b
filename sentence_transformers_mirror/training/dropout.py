"""Dropout and DropHead of a live model, changed for as long as a context is open, and never in what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import PreTrainedModel

from sentence_transformers_mirror import _host

_DROPHEAD = "drophead_"
_PROBE = "drophead_probe"


def _rates(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """The dropout rates of the encoder, as (module, attribute, value)."""
    for encoder in _host.encoders(model):
        for name, module in encoder.named_modules():
            if "lora" in name:  # an adapter's dropout is the adapter's business
                continue
            if isinstance(module, nn.Dropout):
                yield module, "p", module.p
            for attribute, value in vars(module).items():
                if "dropout" in attribute and isinstance(value, (int, float)):  # reaches an attention function
                    yield module, attribute, value
            for child_name, child in module.named_children():
                if "drop" in child_name and isinstance(child, nn.Identity):  # a rate of 0 in ModernBERT
                    yield module, child_name, child


def dropout_state(model: nn.Module) -> tuple[object, ...]:
    """What decides on the dropout of a forward pass, to be compared: all rates, the attention, and the mode."""
    rates = [None if isinstance(rate, nn.Identity) else rate for _, _, rate in _rates(model)]
    return (model.training, *(_host.attention_name(encoder) for encoder in _host.encoders(model)), *rates)


def has_dropout(model: nn.Module) -> bool:
    """Whether dropout or DropHead makes two forward passes of a model in training mode differ."""
    return any(value.startswith(_DROPHEAD) if isinstance(value, str) else value for value in dropout_state(model)[1:])


@contextmanager
def dropout_rate(model: SentenceTransformer, p: float) -> Iterator[None]:
    """Set every dropout rate of a model's transformer while the context is open.

    Reaches rates kept as ``nn.Dropout``, as plain floats and as ``nn.Identity`` (a rate of 0 in ModernBERT). On
    leaving, whatever was raised, the model is as it was.

    Args:
        model: The model.
        p: Probability of dropping a value, in [0, 1).

    Raises:
        ValueError: If p is outside [0, 1), or the model has no dropout to set.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import dropout_rate, embedded_model_path
        >>> model = SentenceTransformer(embedded_model_path())
        >>> with dropout_rate(model, 0.2):
        ...     pass  # train here, in a loop of your own
    """
    _check_probability(p)
    before = list(_rates(model))
    if not before:
        raise ValueError("This model has no dropout to set (no transformer inside); make the views differ by a mask.")
    try:
        for module, name, value in before:
            setattr(module, name, nn.Dropout(p).train(value.training) if isinstance(value, nn.Identity) else float(p))
        yield
    finally:
        for module, name, value in before:
            if isinstance(value, nn.Identity):
                value.train(getattr(module, name).training)
            setattr(module, name, value)


@contextmanager
def drophead(model: SentenceTransformer, p: float) -> Iterator[None]:
    """Drop whole attention heads in training while the context is open (DropHead, Zhou et al. 2020, arXiv 2004.13342).

    Each head of each row is dropped with probability p, and the rest scaled by heads / heads kept. The paper
    (arXiv 2104.08027, section 4.4) drops 0.2 for BERT and 0.05 for RoBERTa, with dropout 0.

    Args:
        model: The model, whose transformer dispatches its attention through transformers' AttentionInterface.
        p: Probability of dropping a head, in [0, 1).

    Raises:
        ValueError: If p is outside [0, 1), or the architecture would ignore it (MPNet, DeBERTa-v2).

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import drophead, dropout_rate, embedded_model_path
        >>> model = SentenceTransformer(embedded_model_path())
        >>> with dropout_rate(model, 0.0), drophead(model, 0.2):
        ...     pass  # train here, in a loop of your own
    """
    _check_probability(p)
    before = [(encoder, _host.attention_name(encoder)) for encoder in _host.encoders(model)]
    try:
        for encoder, name in before:
            _use_drophead(encoder, name, p)
        yield
    finally:
        for encoder, name in before:
            _host.set_attention(encoder, name)


def _use_drophead(encoder: PreTrainedModel, name: str, p: float) -> None:
    # Eager attention is a function of each architecture's own file; sdpa computes the same and can be wrapped.
    base = "sdpa" if name == "eager" else name
    attention, mask = _host.attention_functions(base)
    # Registered with its mask function: without one, transformers attends to padding and says nothing.
    _host.register_attention(_PROBE, _reached, mask)
    _host.register_attention(f"{_DROPHEAD}{base}_{p}", partial(_drop_heads, attention=attention, p=p), mask)
    _host.set_attention(encoder, _PROBE)
    try:
        with torch.no_grad():
            tokens = torch.tensor([[0, 1]], device=encoder.device)
            encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    except _Reached:
        _host.set_attention(encoder, f"{_DROPHEAD}{base}_{p}")
    else:
        raise ValueError(
            f"DropHead would do nothing in {type(encoder).__name__}, which computes its attention without "
            "transformers' AttentionInterface; use dropout instead (dropout=0.1 and drophead=0 in a recipe), or see "
            "whether a newer transformers does."
        )


class _Reached(Exception):
    """The architecture did call the attention function that it was given."""


def _reached(*args, **kwargs) -> None:
    raise _Reached


def _drop_heads(module: nn.Module, *args, attention, p: float, **kwargs) -> tuple[Tensor, Tensor | None]:
    output, weights = attention(module, *args, **kwargs)  # output: (rows, tokens, heads, head dim)
    if module.training and p > 0:
        rows, _, heads, _ = output.shape
        kept = (torch.rand(rows, 1, heads, 1, device=output.device) >= p).to(output.dtype)
        # At least 1 in the divisor: a row that loses every head becomes 0, not NaN.
        output = output * kept * (heads / kept.sum(2, keepdim=True).clamp(min=1))
    return output, weights


def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"The probability of dropping must be at least 0 and below 1, not {p}; the paper uses 0.1.")
