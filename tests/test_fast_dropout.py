from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, _host, fast_dropout
from sentence_transformers_mirror.fast_dropout import dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_and_scale_are_those_of_torch(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(301, 999, dtype=dtype, requires_grad=True)  # no multiple of four
    y = dropout(x, p)
    assert y.dtype == dtype and y.shape == x.shape
    kept = y != 0
    assert kept.float().mean() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), atol=0, rtol=1e-2 if p == 0.9 else 8e-3)
    # Rows, columns and neighbours know nothing of each other.
    for axis in (0, 1):
        shares = kept.float().mean(axis)
        assert shares.std() == pytest.approx((p * (1 - p) / kept.shape[axis]) ** 0.5, rel=0.15)
    both = (kept[:, 1:] & kept[:, :-1]).float().mean()
    assert both == pytest.approx((1 - p) ** 2, abs=0.005)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_what_it_leaves_to_torch():
    x = torch.randn(4, 5)
    assert dropout(x, 0.5, training=False) is x
    assert torch.equal(dropout(x, 0.0), x) and not dropout(x, 1.0).any()
    y = x.clone()
    assert dropout(y, 0.5, inplace=True) is y


@pytest.mark.parametrize("p", [1e-6, 1 - 1e-6])
def test_rates_finer_than_its_own_are_left_to_torch(p):
    x = torch.ones(100)
    assert dropout(x, p).isfinite().all()
    with pytest.raises(ValueError, match="probability"):
        dropout(x, 1 + p)


def test_not_in_a_compiled_model(tiny_model):
    tiny_model.train()
    assert isinstance(fast_dropout.fast_dropout(torch.compile(tiny_model, backend="eager")), nullcontext)
    tiny_model[0].compile(backend="eager")
    assert isinstance(fast_dropout.fast_dropout(tiny_model), nullcontext)


def test_the_seed_decides():
    x = torch.ones(50, 50)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(x, 0.3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_it_is_used_in_training_alone(tiny_model, texts, monkeypatch):
    calls = []
    monkeypatch.setattr(fast_dropout, "dropout", lambda x, p, training, inplace: calls.append(p) or F.dropout(x, p))
    features = tiny_model.preprocess(texts)
    for loss in (MirrorLoss(tiny_model), CachedMirrorLoss(tiny_model, mini_batch_size=4)):
        tiny_model.train()
        loss([dict(features)]).backward()
        assert calls and set(calls) == {0.1}
        calls.clear()
        tiny_model.eval()
        loss([dict(features)])
        tiny_model.train()
        tiny_model(dict(features))
        assert not calls


def test_not_with_gradient_checkpointing(tiny_model, texts, monkeypatch):
    """Its second forward pass is made outside of the context, and has to draw the same values."""
    tiny_model.train()
    (encoder,) = _host.encoders(tiny_model)
    loss = MirrorLoss(tiny_model)

    def gradients():
        torch.manual_seed(0)
        tiny_model.zero_grad()
        loss([tiny_model.preprocess(texts)]).backward()
        return [parameter.grad.clone() for parameter in tiny_model.parameters() if parameter.grad is not None]

    encoder.gradient_checkpointing_enable()
    checkpointed = gradients()
    encoder.gradient_checkpointing_disable()
    fast = gradients()
    monkeypatch.setattr("sentence_transformers_mirror.loss.fast_dropout", lambda model: nullcontext())
    plain = gradients()
    torch.testing.assert_close(checkpointed, plain)
    assert any(not torch.allclose(a, b) for a, b in zip(fast, plain, strict=True)), "fast dropout was not in use"
