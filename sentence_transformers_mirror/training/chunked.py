"""NT-Xent a few anchors at a time, for batches whose similarities do not fit into memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sentence_transformers_mirror.training.loss import compared, normalized

# Anchor rows at a time: at 65,536 texts the similarities of their two views are 2 x 128 x 131,072 numbers. More are
# no faster on a CPU.
_CHUNK = 128


def chunked_nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float,
    *,
    row_ids: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    anchors: slice = slice(None),
) -> Tensor:
    """The value and gradients of :func:`~sentence_transformers_mirror.nt_xent`, same arguments, in chunks.

    Memory beyond the embeddings and their gradient is that of the similarities of 128 anchors. The gradient is taken
    in closed form while they are at hand; it cannot be differentiated again.
    """
    with torch.autocast(a.device.type, enabled=False):
        candidates = normalized(a, b, negatives)
        return _Chunked.apply(candidates, len(a), temperature, row_ids, negative_ids, anchors)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        candidates: Tensor,
        rows: int,
        temperature: float,
        row_ids: Tensor | None,
        negative_ids: Tensor | None,
        anchors: slice,
    ) -> Tensor:
        begin, end, _ = anchors.indices(rows)
        total = candidates.new_zeros(())
        gradient = torch.zeros_like(candidates) if ctx.needs_input_grad[0] else None
        for first in range(begin, end, _CHUNK):
            part = slice(first, min(first + _CHUNK, end))
            itself, positive, excluded = compared(candidates, rows, part, row_ids, negative_ids)
            scaled = candidates[itself] / temperature
            logits = (scaled @ candidates.T).masked_fill_(excluded, -torch.inf)
            of_positive = logits.gather(1, positive[:, None])
            highest = logits.amax(1, keepdim=True)
            # In place from here on: allocating tensors of this size takes longer than what is done with them.
            probabilities = logits.sub_(highest).exp_()
            normalizer = probabilities.sum(1, keepdim=True)
            total += (normalizer.log() + highest - of_positive).sum()
            if gradient is not None:
                # Cross-entropy by logits: the probabilities, less one at the positive.
                by_logits = probabilities.div_(normalizer)
                by_logits.scatter_add_(1, positive[:, None], -torch.ones_like(of_positive))
                gradient.addmm_(by_logits.T, scaled)
                gradient.index_add_(0, itself, by_logits @ candidates, alpha=1 / temperature)
        count = 2 * (end - begin)
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_loss, None, None, None, None, None
