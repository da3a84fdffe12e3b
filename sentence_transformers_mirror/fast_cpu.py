"""Four operations that a CPU spends its time on, made faster: dropout, attention with dropout and the gradient of an
embedding table in training, and the product with a weight in encoding.

- torch draws one random number for each value it may drop, on one core: up to a seventh of a step on two. Here a draw
  of 64 bits decides on four values. The values kept are others, and as random; rates are kept to 1/65,536.
- Attention with dropout does the same inside of torch, for a number of values that grows with the square of a length.
- Each forward pass of a step fills a gradient as large as the whole table, nearly all of it zeros. Here the gradients
  of all passes become one.
- oneDNN multiplies with a weight that it has laid out for itself faster than MKL does (float32, AMD processors).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from sentence_transformers_mirror import _host

_STEPS = 2**16  # of the probability: 16 bits for each value


def fast_on_cpu(model: nn.Module) -> AbstractContextManager:
    """A context in which forward passes of a model in training are faster, and their backward passes, too.

    It does nothing where it would not help or not be safe: on a GPU, in evaluation, in a compiled model, and with
    gradient checkpointing, whose second forward pass runs outside of the context and must draw the same dropout.
    """
    usable = model.training and _plain_on_cpu(model)
    usable = usable and not any(_host.computes_twice(encoder) for encoder in _host.encoders(model))
    return _FastOnCpu() if usable else nullcontext()


def _plain_on_cpu(model: nn.Module) -> bool:
    return all(one.device.type == "cpu" for one in model.parameters()) and not _host.is_compiled(model)


class _FastOnCpu(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[Tensor, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        if func is F.embedding:
            return self.embedding(*args, **kwargs)
        return func(*args, **kwargs)

    def embedding(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        """`torch.nn.functional.embedding`; the gradients of all lookups in one table go through one node."""
        odd = max_norm is not None or scale_grad_by_freq or sparse
        if weight.requires_grad and torch.is_grad_enabled() and not odd:
            if weight not in self.tables:
                self.tables[weight] = _Table.apply(weight)
            weight, sparse = self.tables[weight], True
        return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)


class _Table(torch.autograd.Function):
    """An embedding table whose lookups have sparse gradients: the rows that were looked up. Their sum becomes dense
    before anything else sees it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if not gradient.is_sparse:
            return gradient
        rows, values = gradient._indices()[0], gradient._values()
        return values.new_zeros(gradient.shape).index_add_(0, rows, values)


class PackedLinears(TorchFunctionMode):
    """A context of one thread in which `torch.nn.functional.linear` multiplies in float32 with weights laid out once.

    It changes nothing where a gradient is wanted, and in other dtypes. Contexts of several threads may share the
    weights laid out so far, ``packed``, while these do not change; they take their memory once more.
    """

    def __init__(self, packed: dict[Tensor, Tensor]) -> None:
        super().__init__()
        self.packed = packed

    @staticmethod
    def usable(model: nn.Module) -> bool:
        return _host.packs_linears() and _plain_on_cpu(model)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear:
            return self.linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        tensors = (input, weight) if bias is None else (input, weight, bias)
        plain = all(type(one) in (Tensor, nn.Parameter) and one.dtype == torch.float32 for one in tensors)
        # A weight that is made anew in each pass, as some adapters do, is no Parameter and would be kept each time.
        plain = plain and type(weight) is nn.Parameter and input.ndim > 1 and input.numel() > 0
        if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(input, weight, bias)
        packed = self.packed.get(weight)
        if packed is None:
            packed = self.packed[weight] = _host.pack_linear(weight.detach())
        return _host.packed_linear(input, packed, bias)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout` for tensors on a CPU; what is in place is left to torch."""
    if not training or inplace or input.device.type != "cpu" or not 1 <= p * _STEPS <= _STEPS - 1:
        return F.dropout(input, p, training, inplace)
    kept = round((1 - p) * _STEPS)
    draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64, device=input.device).random_(-(2**63), None)
    mask = draws.view(torch.int16)[: input.numel()].view(input.shape) < kept - _STEPS // 2
    return input * mask.to(input.dtype).mul_(_STEPS / kept)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` for tensors on a CPU, with the dropout of `dropout`.

    Scores and weights are in float32 at least, as there. A row of which the mask hides all keys sees all of them
    alike, where torch gives zeros; nothing reads such a row. The work is left to torch without dropout, and where
    ``is_causal`` or ``enable_gqa`` is set.
    """
    odd = attn_mask is not None and attn_mask.dtype != torch.bool and not attn_mask.is_floating_point()
    if not dropout_p or is_causal or enable_gqa or odd or query.device.type != "cpu":
        newer = {"enable_gqa": True} if enable_gqa else {}  # torch 2.4 does not know it
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **newer)
    if torch.is_autocast_enabled("cpu"):
        inputs = (query, key, value)
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) if x.dtype == torch.float32 else x for x in inputs)
    exact = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        scaled = query.to(exact) * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = scaled @ key.to(exact).transpose(-2, -1)
        if attn_mask is not None:
            least = torch.finfo(exact).min  # a row of minus infinity would be divided by its sum of 0
            if attn_mask.dtype == torch.bool:
                # Not into the scores, which are as many times larger as there are heads.
                hidden = torch.zeros(attn_mask.shape, dtype=exact, device=attn_mask.device)
                scores = scores + hidden.masked_fill_(~attn_mask, least)
            else:
                scores = scores + attn_mask.to(exact).clamp(min=least)
        return dropout(scores.softmax(-1), dropout_p).to(value.dtype) @ value
