from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_transformers_mirror.training.packing import embed_packed, group_width, plan_groups

lengths = st.lists(st.integers(1, 70), min_size=1, max_size=9)


def padded(lengths, parts):
    """Tokens computed."""
    return sum(int(group_width(lengths[part].max())) * len(part) for part in parts)


def test_widths_are_even_and_at_most_an_eighth_wider():
    widths = {longest: int(group_width(np.array(longest))) for longest in range(1, 600)}
    assert [widths[n] for n in (1, 2, 9, 15, 16, 31, 32, 33, 63, 65, 511, 513)] == [
        2, 2, 10, 16, 16, 32, 32, 36, 64, 72, 512, 576
    ]  # fmt: skip
    assert all(n <= width <= max(n + 1, n * 1.125) for n, width in widths.items())
    assert len({width for n, width in widths.items() if 64 < n <= 128}) == 8


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, groups=st.integers(1, 6))
def test_plan_is_a_partition_with_the_fewest_padded_tokens(lengths, groups):
    lengths = np.array(lengths)
    parts = plan_groups(lengths, groups)
    assert len(parts) == min(groups, len(lengths))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    order = np.argsort(lengths, kind="stable")
    best = min(padded(lengths, np.split(order, cuts)) for cuts in combinations(range(1, len(order)), len(parts) - 1))
    assert padded(lengths, parts) == best


def test_large_batches_are_cut_into_groups_of_few_shapes():
    """oneDNN prepares and keeps primitives for every number of tokens: a step should not bring another."""
    draw = np.random.default_rng(0)
    tokens, computed, fewest = [], 0, 0
    for _ in range(300):
        lengths = np.minimum(draw.gamma(4, 4, 401).astype(int) + 3, 50)
        parts = plan_groups(lengths, 8)
        assert sorted(np.concatenate(parts).tolist()) == list(range(401))
        tokens.append({len(part) * int(group_width(lengths[part].max())) for part in parts[:-1]})
        computed += padded(lengths, parts)
        fewest += sum(lengths[part].max() * len(part) for part in exact_groups(lengths, 8))
    seen = set().union(*tokens)
    assert len(seen) < 40 and len(seen - set().union(*tokens[:50])) < 10
    assert fewest < computed < 1.06 * fewest


def exact_groups(lengths, groups):
    """The fewest padded tokens with cuts anywhere, by trying every last group of every prefix."""
    ordered = np.sort(lengths)
    ends = [0, *(np.flatnonzero(np.diff(ordered)) + 1), len(ordered)]
    best = {0: (0, [])}
    for _ in range(groups):
        best = {
            end: min(
                (cost + int(ordered[end - 1]) * int(end - start), [*cuts, end])
                for start, (cost, cuts) in best.items()
                if start < end
            )
            for end in ends
            if end > min(best)
        }
    return np.split(np.argsort(lengths, kind="stable"), best[len(ordered)][1][:-1])


class Recorder(torch.nn.Module):
    """Embeds a row as the sum of its visible tokens, and remembers how many tokens it was given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, features):
        self.shapes.append(tuple(features["input_ids"].shape))
        assert features["token_type_ids"].shape == features["input_ids"].shape
        visible = features["input_ids"] * features["attention_mask"]
        return {"sentence_embedding": torch.stack([visible.sum(1), features["token_type_ids"].sum(1)], 1).float()}


def batch(lengths, width, left=False):
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if left else mask
    ids = torch.arange(1, mask.numel() + 1).reshape(mask.shape) * mask
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": mask.long(), "modality": "text"}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3, 50])
def test_rows_keep_what_is_theirs_and_come_back_in_order(left, groups):
    columns = [batch([3, 9, 1, 4], 9, left), batch([2, 2, 7, 5], 7, left)]
    model = Recorder()
    for embedding, features in zip(embed_packed(model, columns, groups), columns, strict=True):
        assert torch.equal(embedding[:, 0], (features["input_ids"] * features["attention_mask"]).sum(1).float())
        assert torch.equal(embedding[:, 1], features["token_type_ids"].sum(1).float())
    assert len(model.shapes) == min(groups, 8)
    if groups == 50:
        assert [width for _, width in model.shapes] == [2, 2, 2, 4, 4, 6, 8, 9], "padding was computed"


def test_columns_of_one_width_and_one_group_need_no_sorting():
    model = Recorder()
    embed_packed(model, [batch([3, 9], 9), batch([9, 2], 9)], groups=1)
    assert model.shapes == [(4, 9)]


def test_the_layout_and_not_the_rows_decides_the_order():
    """A view with deleted tokens is laid out like the view that it was made from."""
    model = Recorder()
    layout = [batch([3, 9, 1], 9)["attention_mask"]] * 2
    deleted = batch([2, 1, 1], 9)
    embeddings = embed_packed(model, [batch([3, 9, 1], 9), deleted], groups=3, layout=layout)
    assert model.shapes == [(2, 2), (2, 4), (2, 9)]
    assert torch.equal(embeddings[1][:, 0], deleted["input_ids"].sum(1).float())


def test_columns_with_other_metadata_are_not_merged():
    model = Recorder()
    first, second = batch([3, 9], 9), {**batch([3, 9], 9), "prompt_length": 2}
    embed_packed(model, [first, second], groups=1)
    assert model.shapes == [(2, 9), (2, 9)]
