"""While a model is tuned, nobody else may embed with it: that would switch off its dropout in the middle of a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# The models that the running thread, and those that it started, are tuning.
_tuned_here: ContextVar[frozenset[int]] = ContextVar("tuned_here", default=frozenset())
_tuned: set[int] = set()  # by any thread; a copy that is made meanwhile is not among them


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, only this thread, and those that embed for it, may change between training and evaluation.

    Any other that tries, as ``model.encode`` does first, gets a ValueError that says why.
    """
    token = _tuned_here.set(_tuned_here.get() | {id(model)})
    vars(model)["train"] = _Refusing(model)
    _tuned.add(id(model))
    try:
        yield
    finally:
        _tuned.discard(id(model))
        vars(model).pop("train", None)
        _tuned_here.reset(token)


class _Refusing:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, mode: bool = True) -> nn.Module:
        if id(self.model) in _tuned - _tuned_here.get():
            raise ValueError(
                "The model is being tuned by another thread, and embedding with it meanwhile would switch off its "
                "dropout: wait until it is done, or embed with a copy."
            )
        return type(self.model).train(self.model, mode)
