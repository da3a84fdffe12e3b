"""Embed the rows of a batch without computing their padding.

A batch is random in content and ragged in length: padded to its longest row, most of a batch of sentences is padding.
Here its rows are sorted by length and cut into a fixed number of groups whose boundaries minimise the padded
tokens, and each group is embedded at its own width. Groups are of few sizes and widths, because oneDNN keeps what it
has prepared for each number of tokens that it meets: with hundreds of them memory would grow for as long as one tunes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plan_groups(lengths: np.ndarray, groups: int) -> list[np.ndarray]:
    """Partition rows into groups of like length with few padded tokens.

    A dynamic programme: a group costs the `group_width` of its longest row times its number of rows. Cuts lie between
    blocks of equally many rows (anywhere, if there are fewer than 24), where they are best.

    Args:
        lengths: Tokens per row, shape (rows,), int.
        groups: Number of groups, at least 1.

    Returns:
        Exactly ``min(groups, rows)`` arrays of row indices, shortest rows first; together every row once. The number
        does not depend on the lengths, because data-parallel ranks that make different numbers of forward calls
        in one step wait for each other for ever.
    """
    order = np.argsort(lengths, kind="stable")
    groups = min(groups, len(lengths))
    # A power of two, so that few numbers of tokens (rows times width) occur; 12 to 24 blocks.
    block = 1 << max(0, (len(lengths) // 12).bit_length() - 1)
    starts = np.arange(0, len(lengths), block)
    ends = np.append(starts[1:], len(lengths))
    widths = group_width(lengths[order[ends - 1]])
    # cost[i, j]: padded tokens of one group that holds the blocks i..j
    cost = np.where(np.tri(len(widths), dtype=bool).T, widths[None, :] * (ends[None, :] - starts[:, None]), np.inf)
    best = cost[0]
    choices = []
    for _ in range(1, min(groups, len(widths))):
        total = np.full(cost.shape, np.inf)
        total[1:] = best[:-1, None] + cost[1:]
        choices.append(total.argmin(axis=0))
        best = total.min(axis=0)
    cuts, last = [], len(widths) - 1
    for choice in reversed(choices):
        first = int(choice[last])
        cuts.append(int(starts[first]))
        last = first - 1
    parts = np.split(order, sorted(cuts))
    while len(parts) < groups:  # fewer blocks than groups: halve the largest
        largest = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts[largest : largest + 1] = np.array_split(parts[largest], 2)
    return parts


def group_width(longest: np.ndarray | int) -> Any:
    """Tokens that a group is embedded at: those of its longest row, rounded up to a multiple of 2 up to 32, of 4 up
    to 64, of 8 up to 128, and so on: eight widths an octave."""
    step = 2 ** np.maximum(1, np.frexp(longest)[1] - 4)
    return -(-longest // step) * step


@dataclass(frozen=True)
class Packed:
    """The rows of a batch, cut into the inputs of forward passes, and the way back.

    Attributes:
        parts: Features of each forward pass.
        merged: For each set of columns that share forward passes: the columns, the rows of each, the number of parts,
            and where each row went, shape (rows,), or None if none moved.
    """

    parts: list[dict[str, Any]]
    merged: list[tuple[list[int], list[int], int, Tensor | None]]

    def unpack(self, embeddings: list[Tensor]) -> list[Tensor]:
        """From the embeddings of each part to those of each column, shape (rows, dim), rows in their first order."""
        columns: dict[int, Tensor] = {}
        remaining = iter(embeddings)
        for members, sizes, count, inverse in self.merged:
            rows = torch.cat(list(islice(remaining, count)))
            if inverse is not None:
                rows = rows.index_select(0, inverse)
            columns.update(zip(members, rows.split(sizes), strict=True))
        return [columns[i] for i in range(len(columns))]


def pack(
    columns: list[dict[str, Any]],
    partition: Callable[[np.ndarray], list[np.ndarray]] | None,
    layout: list[Tensor] | None = None,
) -> Packed:
    """Cut the rows of all columns into parts, each as wide as its longest row asks for (`group_width`).

    Rows keep what belongs to them (token types, positions) and are trimmed on their padded side, left or right.
    Columns that differ in their keys or metadata (a prompt on one of them, another route) are packed on their own.
    Finding the widths copies two integers a row to the host, the one device synchronisation of a step; there is none
    where the layout lies on the host.

    Args:
        columns: Token features of each column; ``input_ids`` and ``attention_mask`` of shape (rows, tokens).
        partition: From the lengths of all rows, shape (rows,), to arrays of row indices, together every row once.
            None keeps the rows together and in order, and copies nothing if the columns are of one width.
        layout: For each column the attention mask, shape (rows, tokens), that decides order and width; by default its
            own. It may lie on the host while the rows do not. A view whose masked tokens were deleted is laid out
            like the view it was made from, so that the order of rows is the same on every call (wrappers such as
            MatryoshkaLoss cache outputs by call order).
    """
    layout = [features["attention_mask"] for features in columns] if layout is None else layout
    parts, merged, seen = [], [], set()
    for index, features in enumerate(columns):
        if index not in seen:
            members = [i for i, other in enumerate(columns) if i not in seen and _mergeable(features, other)]
            seen.update(members)
            new, inverse = _cut([columns[i] for i in members], [layout[i] for i in members], partition)
            parts += new
            merged.append((members, [len(layout[i]) for i in members], len(new), inverse))
    return Packed(parts, merged)


def embed_packed(
    model: nn.Module, columns: list[dict[str, Any]], groups: int, layout: list[Tensor] | None = None
) -> list[Tensor]:
    """Embed all rows of all columns in ``groups`` forward passes over rows of like length.

    Args:
        model: Maps features to a dict with ``sentence_embedding``, shape (rows, dim).
        columns: The token features of each column, as for `pack`.
        groups: Forward passes for each set of columns that go together, at least 1.
        layout: The attention masks that decide order and width, as for `pack`.

    Returns:
        One tensor of embeddings a column, shape (rows, dim), rows in their original order.
    """
    packed = pack(columns, None if groups == 1 else partial(plan_groups, groups=groups), layout)
    return packed.unpack([model(part)["sentence_embedding"] for part in packed.parts])


def _mergeable(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two columns can share a forward pass: equal keys and equal metadata (prompt length, task, modality)."""
    return first.keys() == other.keys() and all(
        isinstance(other[key], Tensor) if isinstance(value, Tensor) else value == other[key]
        for key, value in first.items()
    )


def _cut(
    columns: list[dict[str, Any]], layout: list[Tensor], partition: Callable | None
) -> tuple[list[dict[str, Any]], Tensor | None]:
    widths = [mask.shape[1] for mask in layout]
    width, rows = max(widths), sum(len(mask) for mask in layout)
    if partition is None and min(widths) == width:
        return [{key: _stack([column[key] for column in columns], widths, left=False) for key in columns[0]}], None
    # Where the real tokens of a row begin (left padding) and end (right padding).
    begin = torch.cat([mask.long().argmax(1) for mask in layout])
    end = torch.cat([mask.shape[1] - mask.long().flip(1).argmax(1) for mask in layout])
    begin, end = torch.stack([begin, end]).cpu().numpy()
    left = bool(begin.any())
    if left:
        shift = np.repeat([width - w for w in widths], [len(mask) for mask in layout])
        begin, end = begin + shift, end + shift
    features = {key: _stack([column[key] for column in columns], widths, left) for key in columns[0]}
    indices = [np.arange(rows)] if partition is None else partition(end - begin)
    device = columns[0]["input_ids"].device
    # CUDA copies such memory aside before the call returns; other devices may not.
    at_once = {"device": device, "non_blocking": device.type == "cuda"}
    parts = []
    for index in indices:
        first, last = int(begin[index].min()), int(end[index].max())
        wide = int(group_width(last - first))
        tokens = slice(max(0, last - wide), last) if left else slice(first, first + wide)
        parts.append(_take(features, torch.from_numpy(index).to(**at_once), tokens, rows, width))
    inverse = torch.from_numpy(np.argsort(np.concatenate(indices)))
    return parts, inverse.to(**at_once)


def _stack(values: list[Any], widths: list[int], left: bool) -> Any:
    """One tensor from one a column, token axes padded with zeros to the widest; metadata as it is."""
    if not isinstance(values[0], Tensor):
        return values[0]
    missing = [max(widths) - width if value.ndim > 1 else 0 for value, width in zip(values, widths, strict=True)]
    values = [
        F.pad(value, [0, 0] * (value.ndim - 2) + ([pad, 0] if left else [0, pad])) if pad else value
        for value, pad in zip(values, missing, strict=True)
    ]
    return torch.cat(values) if len(values) > 1 else values[0]


def _take(features: dict[str, Any], index: Tensor, tokens: slice, rows: int, width: int) -> dict[str, Any]:
    taken = {}
    for key, value in features.items():
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows:
            value = value.index_select(0, index)
            if value.ndim > 1 and value.shape[1] == width:
                value = value[:, tokens]
        taken[key] = value
    return taken
