from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

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
        assert [width for _, width in widths] == lengths[::batch_size], "longest first, like lengths together"


def test_options_reach_the_model(tiny_model, texts):
    prompted = embed(tiny_model, texts, prompt="query: ", truncate_dim=8)
    np.testing.assert_allclose(prompted, tiny_model.encode(texts, prompt="query: ", truncate_dim=8), atol=1e-5)
    assert prompted.shape == (len(texts), 8)
    tiny_model.prompts = {"document": "a document: "}
    documents = embed(tiny_model, texts, encode=tiny_model.encode_document)
    np.testing.assert_allclose(documents, tiny_model.encode_document(texts), atol=1e-5)
    assert not np.allclose(documents, tiny_model.encode(texts), atol=1e-3)


def test_a_batch_holds_about_as_many_tokens_whatever_their_length(tiny_model):
    long, short = ["the cat " * 20 + str(n) for n in range(60)], [f"yes {n}" for n in range(600)]
    sizes = []
    embed(tiny_model, [*short, *long], encode=lambda batch, **_: sizes.append(len(batch)) or np.ones((len(batch), 2)))
    assert sum(sizes) == 660 and sizes[0] < 30 < 100 < max(sizes)


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
    options = {"encode": lambda batch, **_: sizes.append(len(batch)) or np.ones((len(batch), 2))}
    embed(tiny_model, texts, prompt="the cat " * 25, **options)
    assert max(sizes) < 25
    sizes.clear()
    tiny_model.prompts = {"query": "", "document": "the cat " * 25}
    embed(tiny_model, texts, **options)
    assert max(sizes) < 25


def test_no_texts(tiny_model):
    assert embed(tiny_model, []).shape == (0, 0)
