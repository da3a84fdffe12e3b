"""A model that is what it was before, whatever was done with it, and that nobody disturbs meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain

from torch import nn

# The models that the running thread, and those that it started, are tuning.
_tuned_here: ContextVar[frozenset[int]] = ContextVar("tuned_here", default=frozenset())
_tuned: set[int] = set()  # by any thread; a copy that is made meanwhile is not among them


@contextmanager
def trained_in_float32(model: nn.Module) -> Iterator[None]:
    """Float32 weights inside; the dtypes and the training modes of before outside."""
    dtypes = [
        (module, name, tensor.dtype)
        for module in model.modules()
        for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    ]
    with modes_kept(model):
        model.float()
        try:
            yield
        finally:
            for module, name, dtype in dtypes:
                tensor = getattr(module, name, None)
                if isinstance(tensor, nn.Parameter):
                    tensor.data = tensor.data.to(dtype)
                elif tensor is not None:  # another one than before: `float` replaces buffers, and some are dropped
                    setattr(module, name, tensor.to(dtype))


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, other threads than this and those that embed for it get a ValueError if they turn dropout on or off."""
    token = _tuned_here.set(_tuned_here.get() | {id(model)})
    vars(model)["train"] = partial(_train, model)  # in a copy of the model it is one of the copy
    _tuned.add(id(model))
    try:
        yield
    finally:
        _tuned.discard(id(model))
        vars(model).pop("train", None)
        _tuned_here.reset(token)


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    if id(model) in _tuned - _tuned_here.get():
        raise ValueError(
            "The model is being tuned by another thread, and embedding with it meanwhile would switch off its "
            "dropout: wait until it is done, or embed with a copy."
        )
    return type(model).train(model, mode)
