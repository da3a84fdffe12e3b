"""NT-Xent on bare tensors: as one matrix of similarities, and in chunks for batches whose matrix is too large."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float,
    *,
    row_ids: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    anchors: slice = slice(None),
) -> Tensor:
    """Symmetric NT-Xent: each of the 2N views is an anchor, its other view the positive, all others negatives.

    The mean over anchors of the cross-entropy of the positive among 2N-1 candidates (plus the negatives) by cosine
    similarity over temperature. The positive is in the denominator, as in the code that the Mirror-BERT paper
    (arXiv 2104.08027, section 2.2) released and unlike its equation 1. Similarities are computed in at least float32,
    outside autocast: at temperature 0.04 the rounding of bfloat16 would move a logit by 0.05.

    Args:
        a: First views, shape (N, dim).
        b: Second views, shape (N, dim); row i belongs to row i of ``a``.
        temperature: The number, above 0, that cosine similarities are divided by.
        row_ids: What the rows are, integers of shape (N,) or (N, m). Rows that share any id are the same text and
            no negatives of each other.
        negatives: Further negatives of every anchor, shape (M, dim).
        negative_ids: What the negatives are, shape (M,); one that shares an id with a row is left out for it.
        anchors: The rows whose two views are anchors; all by default. The mean over equal, disjoint slices is the
            whole loss, which is how work is divided over devices.

    Returns:
        A scalar; 0 for a single row without negatives.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> from sentence_transformers_mirror import nt_xent
        >>> a, b = torch.eye(2, 3), torch.eye(2, 3)
        >>> round(nt_xent(a, b, temperature=0.5).item(), 3)
        0.24
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; the paper uses 0.04 for sentences.")
    with torch.autocast(a.device.type, enabled=False):
        candidates = normalized(a, b, negatives)
        itself, positive, excluded = compared(candidates, len(a), anchors, row_ids, negative_ids)
        logits = candidates[itself] @ candidates.T / temperature
        return F.cross_entropy(logits.masked_fill(excluded, -torch.inf), positive)


def normalized(a: Tensor, b: Tensor, negatives: Tensor | None) -> Tensor:
    """All candidates of :func:`nt_xent` at unit length and in at least float32: (2N or 2N + M, dim)."""
    candidates = torch.cat([a, b] if negatives is None else [a, b, negatives])
    return F.normalize(candidates.to(torch.promote_types(a.dtype, torch.float32)), dim=-1)


def compared(
    candidates: Tensor, rows: int, anchors: slice, row_ids: Tensor | None = None, negative_ids: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the 2n views of a slice of n rows are among the candidates, and their positives, both of shape (2n,); and
    which candidates do not count: a view itself, and other rows of its text, a boolean (2n, candidates)."""
    index = torch.arange(rows, device=candidates.device)[anchors]
    itself, positive = torch.cat([index, index + rows]), torch.cat([index + rows, index])
    excluded = torch.zeros(len(itself), len(candidates), dtype=torch.bool, device=candidates.device)
    if row_ids is not None:
        ids = row_ids.reshape(rows, -1)
        excluded[:, : 2 * rows] = _share_id(ids[anchors], ids).repeat(2, 2)
        if negative_ids is not None:
            excluded[:, 2 * rows :] = _share_id(ids[anchors], negative_ids.reshape(-1, 1)).repeat(2, 1)
    excluded.scatter_(1, itself[:, None], True)
    excluded.scatter_(1, positive[:, None], False)
    return itself, positive, excluded


def _share_id(x: Tensor, y: Tensor) -> Tensor:
    """Which rows of x, shape (n, p), share an id with which rows of y, shape (m, q): a boolean (n, m)."""
    equal = (one[:, None] == other for one, other in product(x.unbind(1), y.unbind(1)))
    return reduce(Tensor.logical_or_, equal)


# Anchor rows at a time: at 65,536 texts the similarities of their two views are 2 x 128 x 131,072 numbers. More are
# no faster on a CPU.
_CHUNK = 128


def chunked_nt_xent(
    a: Tensor, b: Tensor, temperature: float, *, anchors: slice, negatives: Tensor | None = None, **ids: Tensor
) -> Tensor:
    """:func:`nt_xent` at the memory of the similarities of 128 anchors; it cannot be differentiated twice."""
    begin, end, _ = anchors.indices(len(a))
    with torch.autocast(a.device.type, enabled=False):
        candidates = normalized(a, b, negatives)
        chunks = (
            compared(candidates, len(a), slice(first, min(first + _CHUNK, end)), **ids)
            for first in range(begin, end, _CHUNK)
        )
        return _Chunked.apply(candidates, temperature, 2 * (end - begin), chunks)


class _Chunked(torch.autograd.Function):
    """The gradient is taken in closed form while the similarities are at hand."""

    @staticmethod
    def forward(
        ctx: Any, candidates: Tensor, temperature: float, count: int, chunks: Iterable[tuple[Tensor, Tensor, Tensor]]
    ) -> Tensor:
        total = candidates.new_zeros(())
        gradient = torch.zeros_like(candidates) if ctx.needs_input_grad[0] else None
        for itself, positive, excluded in chunks:
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
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * by_loss, None, None, None
