"""Two or three processes, each with a share of the batch, equal one process with the whole batch."""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import TEXTS
from torch.nn.parallel import DistributedDataParallel

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, dropout_rate

# Anchors of the first rank are short, those of the last long; one text is on the first and on the last.
ANCHORS = [*sorted(TEXTS, key=len)[:11], "Yes."]
POSITIVES = [*TEXTS[:11], "No."]
LOSSES = {"plain": MirrorLoss, "cached": partial(CachedMirrorLoss, mini_batch_size=3)}


def step(model, rank, world, make_loss):
    """Loss and gradients of one share of the batch."""
    share = slice(rank * len(ANCHORS) // world, (rank + 1) * len(ANCHORS) // world)
    columns = [model.preprocess(texts[share]) for texts in (ANCHORS, POSITIVES)]
    loss = make_loss(model, mask=None, gather_across_devices=world > 1)
    model.zero_grad()
    if world > 1:
        # The pooler of BERT takes no part in mean pooling; the Trainer looks for such parameters, too.
        loss.model = DistributedDataParallel(model, find_unused_parameters=True)
    with dropout_rate(model, 0.0):
        model.train()
        value = loss(columns)
        value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worker(rank, world, model, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    torch.save({name: step(model, rank, world, make) for name, make in LOSSES.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo rendezvous over a file is not reliable on Windows")
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_equal_one(tiny_model, tmp_path, world):
    tiny_model.double().zero_grad()
    # Importing takes most of their time: a server does it once, and forks the processes.
    mp.set_forkserver_preload(["sentence_transformers"])
    mp.start_processes(worker, (world, tiny_model, str(tmp_path)), world, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for loss, make in LOSSES.items():
        value, expected = step(tiny_model, 0, 1, make)
        torch.testing.assert_close(sum(rank[loss][0] for rank in ranks) / world, value)
        assert any(gradient.any() for gradient in expected.values()), "nothing received a gradient"
        for name, gradient in expected.items():
            for rank in ranks:
                torch.testing.assert_close(rank[loss][1][name], gradient, atol=1e-5, rtol=1e-4)
