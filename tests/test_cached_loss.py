from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from conftest import ARCHITECTURES
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss
from test_loss import assert_same, gradients_of, loss_and_gradients

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, drophead, dropout_rate, nt_xent
from sentence_transformers_mirror.fast_cpu import fast_on_cpu
from sentence_transformers_mirror.training import nt_xent as of_nt_xent
from sentence_transformers_mirror.training.packing import pack


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Similarities of a few anchors at a time, as in batches of thousands."""
    monkeypatch.setattr(of_nt_xent, "_CHUNK", 5)


def seeded(loss, columns):
    torch.manual_seed(3)
    return loss_and_gradients(loss, columns)


@pytest.mark.parametrize("anchors", [slice(None), slice(2, 9), slice(11, 12)])
@pytest.mark.parametrize("further", [False, True])
def test_chunks_equal_the_whole(anchors, further):
    torch.manual_seed(0)
    tensors = [torch.randn(rows, 8, dtype=torch.float64) for rows in ((12, 12, 7) if further else (12, 12))]
    options = {"temperature": 0.04, "anchors": anchors, "row_ids": torch.tensor([*range(10), 3, 3])}
    if further:
        options["row_ids"] = torch.stack([options["row_ids"], torch.arange(20, 32)], dim=1)
        options["negative_ids"] = torch.tensor([5, 21, 40, 41, 42, 43, 44])
    results = []
    for function in (nt_xent, of_nt_xent.chunked_nt_xent):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        negatives = {"negatives": leaves[2]} if further else {}
        value = function(*leaves[:2], **negatives, **options)
        (3 * value).backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for whole, in_chunks in zip(*results, strict=True):
        torch.testing.assert_close(in_chunks, whole)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_cached_equals_plain(make_model, texts, name, size):
    model = make_model(name).double()  # at temperature 0.04 the noise of float32 would need a loose tolerance
    texts = [*texts, texts[0], texts[3]]  # with duplicates
    with dropout_rate(model, 0.0):
        model.train()
        columns = [model.preprocess(texts)]
        plain = seeded(MirrorLoss(model), columns)
        assert_same(seeded(CachedMirrorLoss(model, mini_batch_size=size), columns), plain)
        columns = [model.preprocess(texts[i : i + 6]) for i in (0, 6, 9, 12)]
        assert_same(seeded(CachedMirrorLoss(model, mini_batch_size=size), columns), seeded(MirrorLoss(model), columns))


@pytest.mark.parametrize("context", [dropout_rate, drophead])
def test_the_second_pass_repeats_the_dropout_of_the_first(tiny_model, texts, context):
    loss = CachedMirrorLoss(tiny_model, mini_batch_size=4)
    features = tiny_model.preprocess(texts)
    with context(tiny_model, 0.3):
        tiny_model.train()
        parts = []  # the host drops padding that all rows of a part share
        hook = tiny_model.register_forward_pre_hook(lambda _, args: parts.append(dict(args[0])))
        cached = seeded(loss, [features])
        hook.remove()
        tiny_model.zero_grad()
        torch.manual_seed(3)
        batch = loss.batch([features])
        packed = pack(batch.columns, loss._mini_batches, batch.layout)
        with fast_on_cpu(tiny_model):
            first_pass = parts[: len(packed.parts)]
            a, b = packed.unpack([tiny_model(part)["sentence_embedding"] for part in first_pass])
        value = nt_xent(a, b, 0.04, row_ids=torch.stack(batch.row_ids, dim=1))
        value.backward()
    assert_same(cached, (value.detach(), gradients_of(tiny_model)))


@pytest.mark.parametrize("autocast", [True, False])
def test_the_second_pass_has_the_precision_of_the_first(tiny_model, texts, autocast):
    """A Trainer leaves its autocast region before it calls backward."""
    seen = []
    tiny_model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = CachedMirrorLoss(tiny_model.train(), mini_batch_size=8)([tiny_model.preprocess(texts)])
    with torch.autocast("cpu", torch.bfloat16, enabled=not autocast):
        value.backward()
    assert seen == [autocast] * 8


def change_rate(model, stack):
    stack.close()


def change_mode(model, stack):
    model.eval()


@pytest.mark.parametrize("change", [change_rate, change_mode])
@pytest.mark.parametrize("context", [dropout_rate, drophead])
def test_dropout_that_changed_between_the_passes_is_an_error(tiny_model, texts, context, change):
    with ExitStack() as stack:
        stack.enter_context(context(tiny_model, 0.3))
        tiny_model.train()
        value = CachedMirrorLoss(tiny_model)([tiny_model.preprocess(texts)])
        change(tiny_model, stack)
        with pytest.raises(RuntimeError, match="until backward has returned"):
            value.backward()


def test_no_more_rows_at_a_time_than_a_mini_batch(tiny_model, texts, monkeypatch):
    seen = []
    forward = tiny_model.forward
    monkeypatch.setattr(
        tiny_model, "forward", lambda features: seen.append(features["input_ids"].shape) or forward(features)
    )
    CachedMirrorLoss(tiny_model.train(), mini_batch_size=8)([tiny_model.preprocess(texts)]).backward()
    assert [rows for rows, _ in seen] == [8] * 8
    widths = [width for _, width in seen[:4]]
    assert widths == sorted(widths) and widths[0] < widths[-1], "rows of like length were not put together"


def test_evaluation(tiny_model, texts):
    tiny_model.eval()
    features = tiny_model.preprocess(texts)
    with torch.no_grad():
        value = CachedMirrorLoss(tiny_model, mini_batch_size=4)([features])
        torch.testing.assert_close(value, MirrorLoss(tiny_model)([features]))
    assert not value.requires_grad


def test_matryoshka_is_the_sum_over_dimensions(tiny_model, texts):
    tiny_model.double()
    with dropout_rate(tiny_model, 0.0):
        tiny_model.train()
        columns = [tiny_model.preprocess(texts)]
        torch.manual_seed(0)
        view = MirrorLoss(tiny_model).mask(columns[0])
        a, b = (tiny_model(dict(f))["sentence_embedding"] for f in (columns[0], view))
        value = sum(weight * nt_xent(a[:, :dim], b[:, :dim], 0.04) for dim, weight in ((32, 1.0), (8, 0.5)))
        value.backward()
        expected = value.detach(), gradients_of(tiny_model)
        for loss in (CachedMirrorLoss(tiny_model, mini_batch_size=5), MirrorLoss(tiny_model, groups=3)):
            wrapped = MatryoshkaLoss(tiny_model, loss, [32, 8], [1.0, 0.5])
            torch.manual_seed(0)
            value = wrapped(columns, None)
            value.backward()
            assert_same((value.detach(), gradients_of(tiny_model)), expected)


def test_gradients_are_scaled_with_the_loss(tiny_model, texts):
    """As gradient accumulation and gradient scalers do."""
    with dropout_rate(tiny_model, 0.0):
        tiny_model.train()
        columns = [tiny_model.preprocess(texts)]
        _, whole = seeded(CachedMirrorLoss(tiny_model), columns)
        torch.manual_seed(3)
        (CachedMirrorLoss(tiny_model)(columns) / 4).backward()
        quarter = gradients_of(tiny_model)
    for name, gradient in whole.items():
        torch.testing.assert_close(quarter[name], gradient / 4)


def test_config_and_limits(tiny_model):
    config = CachedMirrorLoss(tiny_model, mini_batch_size=7).get_config_dict()
    assert config["mini_batch_size"] == 7 and "groups" not in config
    with pytest.raises(ValueError, match="mini_batch_size must be at least 1"):
        CachedMirrorLoss(tiny_model, mini_batch_size=0)
