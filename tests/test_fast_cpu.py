from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, _host, fast_cpu
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.fast_cpu import dropout


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


def lookups(table, ids, padding_idx=None):
    """Gradient of a table that is looked up once for each row of ids, and multiplied with as a decoder does."""
    table.grad = None
    rows = [F.embedding(row, table, padding_idx) for row in ids]
    (torch.cat(rows).tanh().sum() + (rows[0] @ table.T).pow(2).mean()).backward()
    return table.grad


@pytest.mark.parametrize("padding_idx", [None, 3])
def test_gradients_of_a_table_are_those_of_torch(padding_idx):
    torch.manual_seed(0)
    table = torch.randn(50, 8, requires_grad=True)
    ids = torch.randint(0, 50, (6, 40))
    expected = lookups(table, ids, padding_idx)
    with fast_cpu._FastOnCpu():
        gradient = lookups(table, ids, padding_idx)
        again = lookups(table, ids, padding_idx)
    assert not gradient.is_sparse and gradient.is_contiguous()
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(again, expected)


def test_a_step_fills_one_gradient_a_table(tiny_model, texts):
    tiny_model.train()
    loss = MirrorLoss(tiny_model, groups=4)

    def filled(context):
        with pytest.MonkeyPatch.context() as patch, torch.profiler.profile() as profile:
            if context is not None:
                patch.setattr("sentence_transformers_mirror.training.loss.fast_on_cpu", context)
            loss([tiny_model.preprocess(texts)]).backward()
        counts = {event.key: event.count for event in profile.key_averages()}
        return counts.get("aten::embedding_dense_backward", 0), counts.get("_TableBackward", 0)

    tables = sum(isinstance(module, torch.nn.Embedding) for module in tiny_model.modules())
    assert filled(None) == (0, tables) and filled(lambda model: nullcontext()) == (4 * tables, 0)


def test_the_loss_and_its_gradients_are_those_without_it(tiny_model, texts, monkeypatch):
    tiny_model.train()
    for module in tiny_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = MirrorLoss(tiny_model)

    def run():
        torch.manual_seed(0)
        tiny_model.zero_grad()
        value = loss([tiny_model.preprocess(texts)])
        value.backward()
        return value, [p.grad.clone() for p in tiny_model.parameters() if p.grad is not None]

    fast = run()
    monkeypatch.setattr("sentence_transformers_mirror.training.loss.fast_on_cpu", lambda model: nullcontext())
    plain = run()
    assert torch.equal(fast[0], plain[0])
    torch.testing.assert_close(fast[1], plain[1])


@pytest.mark.parametrize("options", [{"sparse": True}, {"scale_grad_by_freq": True}, {"max_norm": 1.0}])
def test_tables_that_it_leaves_to_torch(options):
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2], [2, 5]])

    def gradient():
        torch.manual_seed(1)
        table = torch.randn(6, 3, requires_grad=True)
        with torch.no_grad():
            assert not F.embedding(ids, table).requires_grad
        F.embedding(ids, table.clone() if "max_norm" in options else table, **options).sum().backward()
        return table.grad

    expected = gradient()
    with fast_cpu._FastOnCpu():
        found = gradient()
    assert found.is_sparse == expected.is_sparse
    assert torch.equal(found.to_dense(), expected.to_dense())


def test_not_in_a_compiled_model(tiny_model):
    tiny_model.train()
    assert isinstance(fast_cpu.fast_on_cpu(torch.compile(tiny_model, backend="eager")), nullcontext)
    tiny_model[0].compile(backend="eager")
    assert isinstance(fast_cpu.fast_on_cpu(tiny_model), nullcontext)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mask", ["none", "bool", "added", "of one head"])
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_is_that_of_torch_but_for_what_is_dropped(dtype, mask, autocast, monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 7, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    seen = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    seen[0, ..., 5:] = False
    masks = {
        "none": None,
        "bool": seen.expand(3, 1, 7, 7),
        "added": torch.randn(3, 2, 7, 7, dtype=dtype),
        "of one head": seen.expand(3, 2, 7, 7).clone(),
    }
    monkeypatch.setattr(fast_cpu, "dropout", lambda weights, p: weights)

    def run(function, p):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = function(*inputs, masks[mask], p, scale=0.3)
        return out, torch.autograd.grad((out * torch.arange(8)).sum(), inputs)

    expected, gradients = run(F.scaled_dot_product_attention, 0.0)
    found, same = run(fast_cpu.attention, 0.5)
    close = 2e-2 if torch.bfloat16 in (dtype, expected.dtype) else 1e-5
    assert found.dtype == expected.dtype
    for mine, other in zip([found, *same], [expected, *gradients], strict=True):
        assert (mine - other).norm() < close * other.norm()


def test_attention_drops_weights_at_the_rate():
    torch.manual_seed(0)
    uniform, value = torch.zeros(1, 4, 50, 8), torch.eye(50)[None, None].expand(1, 4, 50, 50)
    weights = fast_cpu.attention(uniform, uniform, value, dropout_p=0.25)
    assert (weights == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(weights[weights > 0], torch.tensor(1 / 50 / 0.75))


@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True}, {"dropout_p": 0.0}])
def test_attention_that_is_left_to_torch(options):
    x, fewer = torch.randn(1, 4, 5, 8), torch.randn(1, 2 if "enable_gqa" in options else 4, 5, 8)
    if "enable_gqa" in options and torch.__version__ < "2.5":
        pytest.skip("torch 2.4 does not know it")
    options = {"dropout_p": 0.3, **options}
    torch.manual_seed(1)
    expected = F.scaled_dot_product_attention(x, fewer, fewer, **options)
    torch.manual_seed(1)
    assert torch.equal(fast_cpu.attention(x, fewer, fewer, **options), expected)


@pytest.mark.parametrize("added", [False, True])
def test_a_row_that_sees_nothing_stays_finite(added):
    x = torch.randn(1, 1, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3, [True] * 3])
    mask = torch.zeros(3, 3).masked_fill(~mask, -torch.inf) if added else mask
    out = fast_cpu.attention(x, x, x, mask, 0.5)
    out.sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_attention_in_training_is_ours(tiny_model, texts, monkeypatch):
    calls = []
    monkeypatch.setattr(
        fast_cpu, "attention", lambda *a, **k: calls.append(k) or F.scaled_dot_product_attention(*a, **k)
    )
    tiny_model.train()
    MirrorLoss(tiny_model)([tiny_model.preprocess(texts)])
    assert calls and calls[0]["dropout_p"] == 0.1


def test_the_seed_decides():
    x = torch.ones(50, 50)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(x, 0.3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_it_is_used_in_training_alone(tiny_model, texts, monkeypatch):
    calls = []
    monkeypatch.setattr(fast_cpu, "dropout", lambda x, p, *_, **__: calls.append(p) or F.dropout(x, p))
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
    monkeypatch.setattr("sentence_transformers_mirror.training.loss.fast_on_cpu", lambda model: nullcontext())
    plain = gradients()
    torch.testing.assert_close(checkpointed, plain)
    assert any(not torch.allclose(a, b) for a, b in zip(fast, plain, strict=True)), "fast dropout was not in use"


needs_packing = pytest.mark.skipif(not _host.packs_linears(), reason="no x86 processor, or torch without oneDNN")


@needs_packing
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (1, 8)])
def test_packed_products_are_those_of_torch(shape, bias):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(8, 6, bias=bias), torch.randn(shape)
    packed = {}
    with torch.inference_mode():
        expected = layer(x)
        with fast_cpu.PackedLinears(packed):
            torch.testing.assert_close(layer(x), expected)
            torch.testing.assert_close(layer(x), expected)
    assert list(packed) == [layer.weight]


@needs_packing
def test_products_that_are_left_to_torch():
    layer, x, packed = torch.nn.Linear(8, 6), torch.randn(3, 8), {}
    with fast_cpu.PackedLinears(packed):
        layer(x).sum().backward()
        with torch.no_grad():
            layer(torch.randn(8)), layer(torch.randn(0, 8)), layer.double()(x.double())
            with torch.autocast("cpu", torch.bfloat16):
                assert layer.float()(x).dtype == torch.bfloat16
    assert layer.weight.grad is not None and not packed


@needs_packing
def test_corpora_are_embedded_with_packed_weights_and_queries_are_not(tiny_model, texts, monkeypatch):
    packed = []
    pack = _host.pack_linear
    monkeypatch.setattr(_host, "pack_linear", lambda weight: packed.append(weight.shape) or pack(weight))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # of two threads both may pack a weight
    tiny_model.encode(texts)
    embed(tiny_model, texts)
    assert not packed
    embed(tiny_model, texts, batch_size=2)
    linears = [module for module in tiny_model[0].modules() if isinstance(module, torch.nn.Linear)]
    assert 0 < len(packed) <= len(linears)
    packed.clear()
    # Its weight is another tensor in each pass.
    parametrize.register_parametrization(linears[0], "weight", torch.nn.Threshold(-1e9, 0.0))
    embed(tiny_model, texts, batch_size=2)
    assert 0 < len(packed) < len(linears)
    packed.clear()
    monkeypatch.setattr(_host, "is_compiled", lambda model: True)
    embed(tiny_model, texts, batch_size=2)
    assert not packed
