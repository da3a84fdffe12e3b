from __future__ import annotations

import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sentence_transformers_mirror.embedding import embed


@pytest.mark.parametrize("batch_size", [None, 3])
def test_vectors_are_those_of_encode_in_the_order_of_the_texts(tiny_model, texts, batch_size):
    twice = [*texts, *texts[::-1], texts[0]]
    done, widths = [], []
    preprocess = tiny_model.preprocess

    def counted(batch, *args, **kwargs):
        features = preprocess(batch, *args, **kwargs)
        widths.append(tuple(features["input_ids"].shape))
        return features

    expected = tiny_model.encode(twice)
    tiny_model.preprocess = counted
    made = embed(tiny_model, twice, batch_size=batch_size, done=done.append)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert sum(rows for rows, _ in widths) == len(set(texts)), "equal texts are embedded once"
    assert sum(done) == len(twice)
    lengths = sorted((len(ids) for ids in tiny_model.tokenizer(list(set(texts)))["input_ids"]), reverse=True)
    if batch_size is not None:
        # Sorted, because several batches are embedded at a time.
        assert sorted((width for _, width in widths), reverse=True) == lengths[::batch_size], "like lengths together"


def test_options_reach_the_model(tiny_model, texts):
    prompted = embed(tiny_model, texts, prompt="query: ", truncate_dim=8)
    np.testing.assert_allclose(prompted, tiny_model.encode(texts, prompt="query: ", truncate_dim=8), atol=1e-5)
    assert prompted.shape == (len(texts), 8)
    tiny_model.prompts = {"document": "a document: "}
    documents = embed(tiny_model, texts, encode="encode_document")
    np.testing.assert_allclose(documents, tiny_model.encode_document(texts), atol=1e-5)
    assert not np.allclose(documents, tiny_model.encode(texts), atol=1e-3)


def test_a_batch_holds_about_as_many_tokens_whatever_their_length(tiny_model):
    long, short = ["the cat " * 20 + str(n) for n in range(60)], [f"yes {n}" for n in range(600)]
    sizes = []
    tiny_model.encode = lambda batch, **_: sizes.append(len(batch)) or np.ones((len(batch), 2))
    embed(tiny_model, [*short, *long])
    assert sum(sizes) == 660 and min(sizes) < 30 < 100 < max(sizes)


@pytest.mark.parametrize("longest", [None, 8, 10**30, math.inf])
def test_models_of_any_length(tiny_model, texts, longest):
    """A tokenizer without a limit says 10**30, and a static embedding infinity."""
    sizes = []
    model = SimpleNamespace(
        tokenizer=tiny_model.tokenizer,
        max_seq_length=longest,
        prompts={},
        device=tiny_model.device,
        encode=lambda batch, **_: sizes.append(len(batch)) or np.ones((len(batch), 2)),
    )
    assert embed(model, texts * 40).shape == (len(texts) * 40, 2)
    assert sum(sizes) == len(set(texts))


def test_a_prompt_counts(tiny_model):
    sizes = []
    texts = [f"yes {n}" for n in range(600)]
    tiny_model.encode = lambda batch, **_: sizes.append(len(batch)) or np.ones((len(batch), 2))
    embed(tiny_model, texts, prompt="the cat " * 25)
    assert max(sizes) < 25
    sizes.clear()
    tiny_model.prompts = {"query": "", "document": "the cat " * 25}
    embed(tiny_model, texts)
    assert max(sizes) < 25


def test_no_texts(tiny_model):
    assert embed(tiny_model, []).shape == (0, 0)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_batches_are_embedded_side_by_side(tiny_model, texts, two_threads):
    """Each waits until another one has begun, with half of the threads."""
    encode, meet, threads = tiny_model.encode, threading.Barrier(2, timeout=30), []

    def met(batch, **options):
        meet.wait()
        threads.append(torch.get_num_threads())
        return encode(batch, **options)

    expected = encode(texts[:12])
    tiny_model.encode = met
    np.testing.assert_allclose(embed(tiny_model, texts[:12], batch_size=3), expected, atol=1e-5)
    assert threads == [1] * 4 and torch.get_num_threads() == 2


def test_a_tokenizer_serves_one_thread_at_a_time(tiny_model, two_threads):
    """Fast tokenizers raise "Already borrowed" when two threads set their padding at once."""
    preprocess, busy = tiny_model.preprocess, threading.Lock()

    def alone(*args, **options):
        assert busy.acquire(blocking=False), "two threads at once"
        try:
            time.sleep(0.01)
            return preprocess(*args, **options)
        finally:
            busy.release()

    tiny_model.preprocess = alone
    embed(tiny_model, [f"yes {n}" for n in range(20)], batch_size=1)


def test_an_error_ends_it_and_threads_are_given_back(tiny_model, texts, two_threads):
    asked = []

    def fail(batch, **options):
        asked.append(batch)
        time.sleep(0.01)  # time for the first error to be seen
        raise RuntimeError("out of memory")

    tiny_model.encode = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        embed(tiny_model, texts * 40 + [f"yes {n}" for n in range(600)], batch_size=1)
    assert len(asked) < 500 and torch.get_num_threads() == 2


def test_one_after_the_other_under_autocast(tiny_model, texts, two_threads):
    with torch.autocast("cpu", torch.bfloat16):
        expected = tiny_model.encode(texts, batch_size=1)
        np.testing.assert_allclose(embed(tiny_model, texts, batch_size=1), expected, atol=1e-5)
    assert not np.allclose(expected, tiny_model.encode(texts), atol=1e-5)
