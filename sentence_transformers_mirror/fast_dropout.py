"""Dropout on a CPU that does not wait for random numbers.

torch draws one random number for each value, on one core: up to a seventh of a step on two. Here a draw of 64 bits
decides on four values. The values kept are others, and as random; rates are kept to 1/65,536.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sentence_transformers_mirror import _host

_STEPS = 2**16  # of the probability: 16 bits for each value


def fast_dropout(model: nn.Module) -> AbstractContextManager:
    """A context in which a forward pass of a model in training draws its dropout faster, from the same generator.

    It does nothing where it would not help or not be safe: on a GPU, in evaluation, in a compiled model, and with
    gradient checkpointing, whose second forward pass runs outside of the context and must draw the same.
    """
    usable = (
        model.training
        and all(parameter.device.type == "cpu" for parameter in model.parameters())
        and not _host.is_compiled(model)
        and not any(_host.computes_twice(encoder) for encoder in _host.encoders(model))
    )
    return _FastDropout() if usable else nullcontext()


class _FastDropout(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return dropout(*args, **kwargs)
        return func(*args, **kwargs)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout` for tensors on a CPU.

    Args:
        input: Floating point, any shape.
        p: Probability of zeroing a value, in [0, 1]; the others are divided by 1 - p.
        training: Without, the input is given back.
        inplace: Left to torch.
    """
    if not training or inplace or input.device.type != "cpu" or not 1 <= p * _STEPS <= _STEPS - 1:
        return F.dropout(input, p, training, inplace)
    kept = round((1 - p) * _STEPS)
    draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64, device=input.device).random_(-(2**63), None)
    draws = draws.view(torch.int16)
    mask = draws[: input.numel()].view(input.shape) < kept - _STEPS // 2
    return input * mask.to(input.dtype).mul_(_STEPS / kept)
