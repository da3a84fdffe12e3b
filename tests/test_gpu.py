"""On a GPU everything computes what it computes on the CPU, and never waits for the device.

Skipped where there is no GPU. `ST_MIRROR_GPU_TESTS=cpu` runs them on the CPU, to see that they run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sentence_transformers_mirror import (
    CachedMirrorLoss,
    MirrorLoss,
    SearchIndex,
    TokenSpanMask,
    drophead,
    dropout_rate,
    embedded_model_path,
    mirror_tune,
    nt_xent,
)
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.training.loss import LAYOUT
from sentence_transformers_mirror.training.nt_xent import chunked_nt_xent

DEVICE = os.environ.get("ST_MIRROR_GPU_TESTS", "cuda")
ON_GPU = DEVICE == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture
def never_waits():
    """A context in which an operation that waits for the GPU raises."""

    class Context:
        def __enter__(self):
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("default")

    return Context()


@pytest.fixture(params=["bert", "roberta", "modernbert", "t5", "qwen2"])
def model(request, make_model):
    return make_model(request.param)


@pytest.fixture
def same_draws(monkeypatch):
    """Random numbers that do not depend on the device."""
    rand, draw = torch.rand, torch.Generator().manual_seed(0)

    def drawn(*shape, device=None, generator=None, **options):
        return rand(*shape, generator=draw, **options).to(device)

    def restart():
        draw.manual_seed(0)

    monkeypatch.setattr(torch, "rand", drawn)
    return restart


def features_on(model, texts):
    features = model.preprocess(texts)
    return {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}


def loss_and_gradients(model, texts, make_loss, restart):
    restart()
    loss = make_loss(model).to(model.device)
    model.zero_grad()
    with dropout_rate(model, 0.0):
        model.train()
        value = loss([features_on(model, texts)])
        value.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    assert any(gradient.any() for gradient in gradients.values()), "nothing received a gradient"
    return value.detach().cpu(), gradients


@pytest.mark.parametrize("make_loss", [MirrorLoss, partial(CachedMirrorLoss, mini_batch_size=5)])
def test_losses_equal_those_of_the_cpu(model, texts, make_loss, same_draws):
    texts = [*texts, texts[0]]
    # At temperature 0.04 the rounding of float32 is 25 times as large.
    model.double()
    value, gradients = loss_and_gradients(model, texts, make_loss, same_draws)
    on_gpu, theirs = loss_and_gradients(deepcopy(model).to(DEVICE), texts, make_loss, same_draws)
    torch.testing.assert_close(on_gpu, value, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-5)


def test_masks_equal_those_of_the_cpu(model, texts, same_draws):
    mask = TokenSpanMask(0.3).bind(model.tokenizer)
    features = model.preprocess(texts)
    same_draws()
    expected = mask(features)
    same_draws()
    made = mask.to(DEVICE)({name: value.to(DEVICE) for name, value in features.items() if torch.is_tensor(value)})
    assert made["input_ids"].device.type == DEVICE and not torch.equal(expected["input_ids"], features["input_ids"])
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(made[name].cpu(), expected[name])


def test_dropped_heads_equal_those_of_the_cpu(make_model, texts, same_draws):
    embeddings = []
    for device in ("cpu", DEVICE):
        model = make_model("bert").to(device)
        same_draws()
        with dropout_rate(model, 0.0), drophead(model, 0.5):
            embeddings.append(model.train()(features_on(model, texts))["sentence_embedding"].cpu())
    torch.testing.assert_close(*embeddings, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.eval()(features_on(model, texts))["sentence_embedding"].cpu(), embeddings[0])


def test_dropout_drops_its_share(make_model, texts):
    model = make_model("bert").to(DEVICE)
    seen = []
    model[0].auto_model.embeddings.dropout.register_forward_hook(lambda module, args, output: seen.append(output))
    with dropout_rate(model, 0.3):
        model.train()(features_on(model, texts * 20))
    assert (seen[0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


class Stub(nn.Module):
    """An encoder that never asks the device for anything, as transformers' own does."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1_000, 16)

    def forward(self, features):
        weights = features["attention_mask"].unsqueeze(-1).float()
        return {"sentence_embedding": (self.table(features["input_ids"]) * weights).sum(1) / weights.sum(1)}


@pytest.mark.parametrize("groups", [None, 1, 4])
def test_a_step_never_waits(make_model, texts, groups, never_waits):
    model = make_model("bert").to(DEVICE)
    loss = MirrorLoss(model, groups=groups).to(DEVICE)
    features = features_on(model, texts)
    layout = features["attention_mask"].cpu().numpy()  # as the collator of mirror_tune leaves it
    loss.model = Stub().to(DEVICE)
    loss([{**features, LAYOUT: layout}]).backward()  # kernels are loaded on first use
    with never_waits:
        loss([{**features, LAYOUT: layout}]).backward()
    assert loss.model.table.weight.grad.any()


@pytest.mark.parametrize("function", [nt_xent, chunked_nt_xent])
def test_the_loss_of_embeddings_never_waits(function, never_waits):
    a, b, further = (torch.randn(rows, 8, device=DEVICE, requires_grad=True) for rows in (300, 300, 70))
    ids = torch.arange(300, device=DEVICE)
    arguments = {"row_ids": ids, "negatives": further, "negative_ids": ids[:70], "anchors": slice(10, 290)}
    function(a, b, 0.05, **arguments).backward()
    with never_waits:
        function(a, b, 0.05, **arguments).backward()
    assert a.grad.any()


def sentences(count):
    words = "the old new green house river cat dog runs sees over under near city light song tree road".split()
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(words, draw.integers(4, 12))) + f" {number}." for number in range(count)]


def test_tuning_repeats_itself_in_bfloat16(tmp_path):
    results = []
    for _ in range(2):
        model = SentenceTransformer(embedded_model_path(), device=DEVICE)
        result = mirror_tune(model, sentences(640), batch_size=64, learning_rate=3e-4, mask=0.3)
        results.append((result, {name: tensor.cpu() for name, tensor in model.state_dict().items()}))
    (first, weights), (second, same) = results
    assert first.precision == "bf16" or not ON_GPU
    assert first.losses[-1] < first.losses[0] and first.losses == second.losses
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_the_hosts_trainer_takes_steps(make_model, texts, tmp_path):
    from datasets import Dataset

    model = make_model("bert").to(DEVICE)
    before = model[0].auto_model.embeddings.word_embeddings.weight.detach().cpu().clone()
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, bf16=ON_GPU, report_to="none",
        save_strategy="no", use_cpu=not ON_GPU, disable_tqdm=True,
    )  # fmt: skip
    dataset = Dataset.from_dict({"text": texts})
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=MirrorLoss(model))
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(model[0].auto_model.embeddings.word_embeddings.weight.detach().cpu(), before)


def test_attention_kernels_agree(texts):
    model = SentenceTransformer(embedded_model_path(), device=DEVICE)
    features = features_on(model, [texts[0]] * 3)  # without padding, which the flash kernel does not take
    embeddings = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend), torch.autocast(DEVICE, torch.bfloat16), torch.no_grad():
            embeddings.append(model(dict(features))["sentence_embedding"].float())
    cosines = torch.nn.functional.cosine_similarity(*embeddings)
    assert cosines.min() > 0.999


def test_embedding_and_search_equal_those_of_the_cpu(texts, tmp_path):
    corpus = [*texts, *sentences(500)]
    on_cpu = SentenceTransformer(embedded_model_path(), device="cpu")
    model = SentenceTransformer(embedded_model_path(), device=DEVICE)
    vectors = embed(model, corpus, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, embed(on_cpu, corpus, normalize_embeddings=True), atol=2e-4)
    np.testing.assert_allclose(vectors, model.encode(corpus, normalize_embeddings=True), atol=2e-4)
    index = SearchIndex.build(model, corpus, path=tmp_path / "index")
    hits = index.search(texts, top_k=3)
    assert [found[0].text for found in hits] == texts and all(found[0].score > 0.999 for found in hits)
    again = SearchIndex.load(tmp_path / "index", model=on_cpu).search(texts, top_k=3)  # the same model, elsewhere
    assert [[hit.id for hit in found] for found in again] == [[hit.id for hit in found] for found in hits]


def test_a_process_ends_after_views_were_made_by_others(tmp_path):
    script = (
        "from sentence_transformers import SentenceTransformer as Model\n"
        "from sentence_transformers_mirror import embedded_model_path, mirror_tune\n"
        "if __name__ == '__main__':\n"
        "    texts = [f'Title {n}\\n\\nA story of {n} cats. They ran after dogs.' for n in range(64)]\n"
        f"    model = Model(embedded_model_path(), device={DEVICE!r})\n"
        "    print(mirror_tune(model, texts, 'search', batch_size=16, epochs=2, guard=False).recipe.temperature)\n"
    )
    (tmp_path / "tune.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "tune.py"], capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout) == (0, "0.05\n"), done.stderr[-1000:]
