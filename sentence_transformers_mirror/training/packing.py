"""Embed the rows of a batch without most of their padding: in groups of like length, each at its own width."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = dict[str, Any]
Partition = Callable[[np.ndarray], list[np.ndarray]]  # of lengths of rows: arrays of row indices, each row once


def plan_groups(lengths: np.ndarray, groups: int) -> list[np.ndarray]:
    """Partition rows into ``min(groups, rows)`` arrays of row indices, shortest rows first, with few padded tokens.

    The number does not depend on the lengths: ranks that make different numbers of forward calls wait for ever.
    """
    order = np.argsort(lengths, kind="stable")
    groups = min(groups, len(lengths))
    # Cuts lie between blocks of equally many rows, 12 to 24 of a power of two (anywhere, if there are fewer than 24):
    # oneDNN keeps what it prepared for each number of tokens (rows times width) that it meets, so these must be few.
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
    cuts, first = [], len(widths)
    for choice in reversed(choices):
        first = int(choice[first - 1])
        cuts.append(int(starts[first]))
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
    """The rows of a batch, cut into the features of forward passes, and the way back."""

    parts: list[Features]
    sizes: list[int]  # rows of each column
    inverse: Tensor | None  # where each row of the columns went, shape (rows,); None if none moved

    def unpack(self, embeddings: list[Tensor]) -> list[Tensor]:
        """From the embeddings of each part to those of each column, shape (rows, dim), rows in their first order."""
        rows = torch.cat(embeddings)
        if self.inverse is not None:
            rows = rows.index_select(0, self.inverse)
        return list(rows.split(self.sizes))


def pack(columns: list[Features], partition: Partition | None, layout: list[Tensor] | None = None) -> Packed:
    """Cut the rows of all columns into parts, each as wide as its longest row asks for (`group_width`).

    Columns that differ in their keys or metadata (a prompt on one of them, another route) are packed on their own.

    Args:
        columns: Token features of each column.
        partition: Makes the parts of rows of these lengths; None keeps all together and in order.
        layout: For each column the attention mask, shape (rows, tokens), that decides order and width; by default its
            own. A view whose masked tokens were deleted has that of the view it was made from: wrappers such as
            MatryoshkaLoss cache outputs by call order, so the order of rows must be the same on every call.
    """
    layout = [features["attention_mask"] for features in columns] if layout is None else layout
    sizes = [len(mask) for mask in layout]
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    parts, order, left = [], [], list(range(len(columns)))
    while left:
        members = [i for i in left if _mergeable(columns[left[0]], columns[i])]
        left = [i for i in left if i not in members]
        rows = np.concatenate([numbers[i] for i in members])
        for index, part in _cut([columns[i] for i in members], [layout[i] for i in members], partition):
            parts.append(part)
            order.append(rows[index])
    inverse = np.argsort(np.concatenate(order))
    moved = (inverse[1:] < inverse[:-1]).any()
    return Packed(parts, sizes, _index(inverse, columns[0]["input_ids"].device) if moved else None)


def embed_packed(
    model: nn.Module, columns: list[Features], groups: int, layout: list[Tensor] | None = None
) -> list[Tensor]:
    """Embed all columns, as for `pack`, in so many forward passes: for each a tensor of shape (rows, dim)."""
    packed = pack(columns, None if groups == 1 else partial(plan_groups, groups=groups), layout)
    return packed.unpack([model(part)["sentence_embedding"] for part in packed.parts])


def _mergeable(first: Features, other: Features) -> bool:
    """Whether two columns can share a forward pass: equal keys and equal metadata (prompt length, task, modality)."""
    return first.keys() == other.keys() and all(
        isinstance(other[key], Tensor) if isinstance(value, Tensor) else value == other[key]
        for key, value in first.items()
    )


def _cut(
    columns: list[Features], layout: list[Tensor], partition: Partition | None
) -> Iterator[tuple[np.ndarray, Features]]:
    """The numbers of the rows of each part, and their features."""
    widths, rows = [mask.shape[1] for mask in layout], sum(map(len, layout))
    width, everything = max(widths), np.arange(rows)
    if partition is None and min(widths) == width:
        yield everything, _stack(columns, widths, left=False)
        return
    # Where the real tokens of a row begin (left padding) and end (right padding).
    begin = torch.cat([mask.long().argmax(1) for mask in layout])
    end = torch.cat([mask.shape[1] - mask.long().flip(1).argmax(1) for mask in layout])
    begin, end = torch.stack([begin, end]).cpu().numpy()  # waits for the device, if the layout lies there
    left = bool(begin.any())
    if left:
        shift = np.repeat([width - w for w in widths], [len(mask) for mask in layout])
        begin, end = begin + shift, end + shift
    features = _stack(columns, widths, left)
    for index in [everything] if partition is None else partition(end - begin):
        first, last = int(begin[index].min()), int(end[index].max())
        wide = int(group_width(last - first))
        tokens = slice(max(0, last - wide), last) if left else slice(first, first + wide)
        part, of_rows = dict(features), _index(index, features["input_ids"].device)
        for key, value in features.items():
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows:
                value = value.index_select(0, of_rows)
                part[key] = value[:, tokens] if value.ndim > 1 and value.shape[1] == width else value
        yield index, part


def _index(numbers: np.ndarray, device: torch.device) -> Tensor:
    # CUDA copies such memory aside before the call returns; other devices may not.
    return torch.from_numpy(numbers).to(device, non_blocking=device.type == "cuda")


def _stack(columns: list[Features], widths: list[int], left: bool) -> Features:
    """One column from several, token axes padded with zeros to the widest; metadata as it is."""
    stacked = dict(columns[0])
    for key, value in columns[0].items():
        if isinstance(value, Tensor):
            values = [column[key] for column in columns]
            for i, width in enumerate(widths):
                if value.ndim > 1 and (missing := max(widths) - width):
                    side = [missing, 0] if left else [0, missing]
                    values[i] = F.pad(values[i], [0, 0] * (value.ndim - 2) + side)
            stacked[key] = torch.cat(values) if len(values) > 1 else value
    return stacked
