"""Two processes, each with half of the batch, equal one process with the whole batch."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import TEXTS
from torch.nn.parallel import DistributedDataParallel

from sentence_transformers_mirror import MirrorLoss, dropout_rate

# Anchors of the first rank are short, those of the second long; one text is on both ranks.
ANCHORS = [*sorted(TEXTS, key=len)[:4], *sorted(TEXTS, key=len)[-3:], "Yes."]
POSITIVES = [*TEXTS[:7], "No."]


def step(model, rank, world):
    """Loss and gradients of one share of the batch."""
    share = slice(rank * len(ANCHORS) // world, (rank + 1) * len(ANCHORS) // world)
    columns = [model.preprocess(texts[share]) for texts in (ANCHORS, POSITIVES)]
    loss = MirrorLoss(model, mask=None, gather_across_devices=world > 1)
    if world > 1:
        # The pooler of BERT takes no part in mean pooling; the Trainer looks for such parameters, too.
        loss.model = DistributedDataParallel(model, find_unused_parameters=True)
    with dropout_rate(model, 0.0):
        model.train()
        value = loss(columns)
        value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worker(rank, model, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(step(model, rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo rendezvous over a file is not reliable on Windows")
def test_two_processes_equal_one(tiny_model, tmp_path):
    tiny_model.zero_grad()
    mp.spawn(worker, args=(tiny_model, str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    (first, gradients), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    value, expected = step(tiny_model, 0, 1)
    torch.testing.assert_close((first + second) / 2, value)
    assert any(gradient.any() for gradient in expected.values()), "nothing received a gradient"
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
        assert torch.equal(gradients[name], others[name])
