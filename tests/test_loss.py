from __future__ import annotations

import json
import math
import pickle
from copy import deepcopy
from functools import partial

import pytest
import torch
from conftest import ARCHITECTURES, OTHER_LANGUAGES
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, TokenSpanMask, dropout_rate, nt_xent
from sentence_transformers_mirror.training.loss import LAYOUT, groups_for, text_ids


def by_hand(a, b, temperature, row_ids=None, negatives=None, negative_ids=None):
    """NT-Xent as a double loop over pairs, in the letter of its definition."""
    rows = len(a)
    views = [*a.unbind(), *b.unbind()]
    ids = [set(i) for i in row_ids.reshape(rows, -1).tolist()] * 2 if row_ids is not None else None

    def similarity(x, y):
        return torch.dot(x, y) / (x.norm() * y.norm()) / temperature

    losses = []
    for i, anchor in enumerate(views):
        positive = (i + rows) % (2 * rows)
        denominator = similarity(anchor, views[positive]).exp()
        for j, other in enumerate(views):
            duplicate = ids is not None and bool(ids[i] & ids[j])
            if j not in (i, positive) and not duplicate:
                denominator = denominator + similarity(anchor, other).exp()
        for k in range(0 if negatives is None else len(negatives)):
            if negative_ids is None or int(negative_ids[k]) not in ids[i]:
                denominator = denominator + similarity(anchor, negatives[k]).exp()
        losses.append(denominator.log() - similarity(anchor, views[positive]))
    return torch.stack(losses).mean()


def random_views(rows, dim=5, negatives=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (rows, rows, negatives)
    return [torch.randn(n, dim, dtype=torch.float64, generator=generator, requires_grad=True) for n in sizes]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    negatives=st.integers(0, 4),
    temperature=st.floats(0.03, 2.0),
    distinct=st.integers(1, 7),
    columns=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_nt_xent_equals_double_loop(rows, negatives, temperature, distinct, columns, seed):
    a, b, further = random_views(rows, negatives=negatives, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    row_ids = torch.randint(distinct, (rows, columns), generator=generator) if columns else None
    negative_ids = torch.randint(distinct, (negatives,), generator=generator) if columns and negatives else None
    further = further if negatives else None
    expected = by_hand(a, b, temperature, row_ids, further, negative_ids)
    inputs = [a, b] if further is None else [a, b, further]
    expected_gradients = torch.autograd.grad(expected, inputs, allow_unused=True)
    loss = nt_xent(a, b, temperature, row_ids=row_ids, negatives=further, negative_ids=negative_ids)
    gradients = torch.autograd.grad(loss, inputs)
    assert math.isclose(loss.item(), expected.item(), abs_tol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.04, 0.2, 1.0])
def test_nt_xent_equals_pytorch_metric_learning(temperature):
    a, b, _ = random_views(6)
    labels = torch.arange(6).repeat(2)
    expected = NTXentLoss(temperature=temperature)(torch.cat([a, b]), labels)
    torch.testing.assert_close(nt_xent(a, b, temperature), expected, atol=1e-6, rtol=0)


def test_nt_xent_equals_two_host_losses(tiny_model):
    a, b, _ = random_views(6)
    host = MultipleNegativesRankingLoss(
        tiny_model, scale=1 / 0.04, directions=("query_to_doc", "query_to_query"), partition_mode="joint"
    )
    both = [host.compute_loss_from_embeddings(views, None) for views in ([a, b], [b, a])]
    torch.testing.assert_close(nt_xent(a, b, 0.04), sum(both) / 2, atol=1e-6, rtol=0)


def test_slices_of_anchors_average_to_the_whole():
    a, b, _ = random_views(6)
    row_ids = torch.tensor([0, 1, 2, 0, 4, 2])
    parts = [nt_xent(a, b, 0.1, row_ids=row_ids, anchors=slice(i, i + 2)) for i in (0, 2, 4)]
    torch.testing.assert_close(sum(parts) / 3, nt_xent(a, b, 0.1, row_ids=row_ids))


def test_one_row_is_zero_with_zero_gradient():
    a, b, _ = random_views(1)
    loss = nt_xent(a, b, 0.04)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, [a, b]))


def test_half_precision_embeddings_and_autocast_do_not_blur_the_similarities():
    a, b, _ = (x.detach().bfloat16() for x in random_views(8))
    expected = nt_xent(a.float(), b.float(), 0.04)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(a, b, 0.04)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature, tiny_model):
    a, b, _ = random_views(2)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        nt_xent(a, b, temperature)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        MirrorLoss(tiny_model, temperature=temperature)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_ids_know_a_text_under_any_padding(tiny_model, side):
    tiny_model.tokenizer.padding_side = side
    texts = ["a dog", "the dog", "a dog", "dog a", "a dog dog"]
    ids = text_ids(tiny_model.preprocess(texts)).tolist()
    padded = text_ids(tiny_model.preprocess([*texts, "a much longer text than all of the others here"])).tolist()
    assert ids == padded[:-1]
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4


# What makes a loss a good citizen of this host, for every architecture.


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_model):
    return make_model(request.param)


def gradients_of(model):
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert gradients and any(g.any() for g in gradients.values()), "nothing received a gradient"
    model.zero_grad()
    return gradients


def loss_and_gradients(loss, columns):
    loss.model.zero_grad()
    value = loss(columns)
    value.backward()
    return value.detach(), gradients_of(loss.model)


def assert_same(first, second, tolerance=1e-5):
    torch.testing.assert_close(first[0], second[0], atol=tolerance, rtol=tolerance)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], atol=tolerance, rtol=1e-4)


def test_contract(model, texts):
    model.train()
    loss = MirrorLoss(model)
    features = model.preprocess(texts)
    before = {key: value.clone() for key, value in features.items() if isinstance(value, torch.Tensor)}
    value = loss([features], None)
    assert value.ndim == 0 and value.isfinite() and value.requires_grad
    assert {k for k, v in features.items() if isinstance(v, torch.Tensor)} == set(before), "features were mutated"
    assert all(torch.equal(features[key], old) for key, old in before.items())
    json.dumps(loss.get_config_dict())
    assert "liu2021fast" in loss.citation
    with torch.no_grad():
        assert deepcopy(loss)([features]).isfinite()
        assert pickle.loads(pickle.dumps(loss))([features]).isfinite()


def test_groups_do_not_change_loss_or_gradients(model, texts):
    """K groups = one group = two separate forward passes, with dropout and masks off."""
    model.double()  # at temperature 0.04 the noise of float32 would need a loose tolerance
    with dropout_rate(model, 0.0):
        model.train()
        a, b = model.preprocess(texts), model.preprocess(texts[::-1])
        losses = [MirrorLoss(model, mask=None, ignore_duplicates=False, groups=k) for k in (1, 2, 5, 100)]
        results = [loss_and_gradients(loss, [a, b]) for loss in losses]
        model.zero_grad()
        value = nt_xent(model(dict(a))["sentence_embedding"], model(dict(b))["sentence_embedding"], 0.04)
        value.backward()
        separate = value.detach(), gradients_of(model)
    for result in results:
        assert_same(result, separate)


def test_evaluation_masks_the_same_way_every_time(model, texts):
    model.eval()
    loss = MirrorLoss(model)
    features = model.preprocess(texts)
    torch.manual_seed(1)
    with torch.no_grad():
        first = loss([features])
        state = torch.get_rng_state()
        assert torch.equal(loss([features]), first)
        assert torch.equal(torch.get_rng_state(), state), "evaluation must not consume the training's random numbers"
        unmasked = MirrorLoss(model, mask=None)([features])
    assert first != unmasked, "both views were equal"


def test_training_masks_differ_every_time(tiny_model, texts):
    tiny_model.train()
    with dropout_rate(tiny_model, 0.0), torch.no_grad():
        loss = MirrorLoss(tiny_model)
        assert len({loss([tiny_model.preprocess(texts)]).item() for _ in range(3)}) == 3


def test_duplicates_are_no_negatives_of_each_other(tiny_model, texts):
    tiny_model.eval()
    doubled = tiny_model.preprocess([texts[0], texts[0]])
    with torch.no_grad():
        assert MirrorLoss(tiny_model, mask=None)([doubled]) == 0
        naive = MirrorLoss(tiny_model, mask=None, ignore_duplicates=False)([doubled])
    torch.testing.assert_close(naive, torch.tensor(math.log(3)))


def test_equal_positives_are_no_negatives(tiny_model, texts):
    """Two questions with the same answer: neither answer is a negative of the other question."""
    tiny_model.eval()
    columns = [tiny_model.preprocess(texts[:2]), tiny_model.preprocess([texts[4], texts[4]])]
    with torch.no_grad():
        assert MirrorLoss(tiny_model)(columns) == 0


def test_further_columns_are_negatives(tiny_model, texts):
    tiny_model.eval()
    columns = [tiny_model.preprocess(texts[i : i + 3]) for i in (0, 3, 6, 9)]
    with torch.no_grad():
        a, b, c, d = (tiny_model(dict(column))["sentence_embedding"] for column in columns)
        torch.testing.assert_close(MirrorLoss(tiny_model)(columns), nt_xent(a, b, 0.04, negatives=torch.cat([c, d])))
        # A negative that is another row's positive is left out for that row.
        columns[2] = {k: v.clone() if hasattr(v, "clone") else v for k, v in columns[1].items()}
        assert MirrorLoss(tiny_model)(columns) < MirrorLoss(tiny_model, ignore_duplicates=False)(columns)


def test_a_column_with_a_prompt_is_embedded_on_its_own(tiny_model, texts):
    tiny_model.eval()
    tiny_model[1].include_prompt = False
    columns = [tiny_model.preprocess(texts, prompt="Short one. "), tiny_model.preprocess(texts)]
    with torch.no_grad():
        a, b = (tiny_model(dict(column))["sentence_embedding"] for column in columns)
        torch.testing.assert_close(MirrorLoss(tiny_model)(columns), nt_xent(a, b, 0.04))


def test_lengths_that_are_known_on_the_host_are_not_asked_for(tiny_model, texts, monkeypatch):
    tiny_model.eval()
    loss, features = MirrorLoss(tiny_model), tiny_model.preprocess(texts)
    expected = loss([features])
    known = {**features, LAYOUT: features["attention_mask"].numpy()}
    assert torch.equal(loss([known]), expected) and LAYOUT in known
    # Any answer will do, as long as it is the one that decides: with all rows of one length nothing is packed.
    shapes = []
    tiny_model.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0]["input_ids"].shape[1]))
    padded = {**features, LAYOUT: torch.ones_like(features["attention_mask"]).numpy()}
    torch.testing.assert_close(loss([padded]), expected)
    assert set(shapes) == {features["input_ids"].shape[1]}


def test_no_dropout_and_no_mask_is_an_error(make_model, texts):
    model = make_model("modernbert").train()
    with pytest.raises(ValueError, match="identical"):
        MirrorLoss(model, mask=None)([model.preprocess(texts)])
    with dropout_rate(model, 0.1):
        assert MirrorLoss(model, mask=None)([model.preprocess(texts)]) > 0


def test_features_without_tokens_are_refused(tiny_model):
    with pytest.raises(ValueError, match="pixel_values"):
        MirrorLoss(tiny_model)([{"pixel_values": torch.zeros(2, 3, 8, 8)}])


def test_matryoshka_pairs_the_rows_of_one_step(tiny_model, texts):
    """The wrapper caches embeddings by call order; its loss must be the sum over truncated embeddings."""
    with dropout_rate(tiny_model, 0.0):
        tiny_model.train()
        features = tiny_model.preprocess(texts)
        loss = MirrorLoss(tiny_model, groups=3)
        torch.manual_seed(0)
        value = MatryoshkaLoss(tiny_model, loss, [32, 8])([features], None)
        torch.manual_seed(0)
        view = loss.mask(features)
        a, b = (tiny_model(dict(f))["sentence_embedding"] for f in (features, view))
        expected = sum(nt_xent(a[:, :dim], b[:, :dim], 0.04) for dim in (32, 8))
    torch.testing.assert_close(value, expected)


def test_mask_needs_a_text_tokenizer():
    with pytest.raises(ValueError, match="transformer with a text tokenizer"):
        TokenSpanMask().bind(None)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-r", "t5"])
@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages(make_model, name, language):
    model = make_model(name).eval()
    loss = MirrorLoss(model)
    features = model.preprocess(OTHER_LANGUAGES[language])
    hidden = loss.mask.spans(features).sum(1).tolist()
    assert hidden[0] > 0 and hidden[1] > 0, "a long text was not masked"
    assert hidden[2] == 0, "a short text was masked"
    with torch.no_grad():
        assert loss([features]).isfinite()


@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_one_document_are_no_negatives(tiny_model, texts, cached):
    make = partial(CachedMirrorLoss, mini_batch_size=3) if cached else MirrorLoss
    anchors, positives = texts[:6], texts[6:12]
    labels = torch.tensor([3, 1, 4, 1, 5, 9])
    tiny_model.eval()
    columns = [tiny_model.preprocess(side) for side in (anchors, positives)]
    value = make(tiny_model, 0.05, mask=None, labels_are_ids=True)(columns, labels).detach()
    a, b = (torch.from_numpy(tiny_model.encode(side)) for side in (anchors, positives))
    torch.testing.assert_close(value, nt_xent(a, b, 0.05, row_ids=labels), atol=1e-5, rtol=1e-5)
    assert value < make(tiny_model, 0.05, mask=None)(columns, labels) - 1e-3
    # Equal texts are still told apart from the others by their tokens.
    columns[1] = tiny_model.preprocess([anchors[2], *positives[1:]])
    value = make(tiny_model, 0.05, mask=None, labels_are_ids=True)(columns, labels).detach()
    b[0] = a[2]
    ids = torch.tensor([[3, 12], [1, 11], [4, 12], [1, 13], [5, 14], [9, 15]])
    torch.testing.assert_close(value, nt_xent(a, b, 0.05, row_ids=ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("labels", [None, torch.rand(4), torch.arange(3), torch.arange(8).view(4, 2)])
def test_labels_that_are_no_ids(tiny_model, texts, labels):
    columns = [tiny_model.preprocess(texts[:4]), tiny_model.preprocess(texts[4:8])]
    with pytest.raises(ValueError, match="needs a column 'label' of integers, one for each row"):
        MirrorLoss(tiny_model, labels_are_ids=True)(columns, labels)
    assert torch.isfinite(MirrorLoss(tiny_model)(columns, labels))


def test_large_batches_are_cut_into_more_groups():
    for device, rows in (("cpu", 400), ("cuda", 8_192)):
        groups = [groups_for(device, n) for n in range(2, 2 * rows)]
        assert groups == sorted(groups) and groups[0] == 1 and groups[-1] == groups[rows - 2] == 8
    assert groups_for("cuda", 1_024) == 1 and groups_for("cpu", 128) == 4
    longer = [groups_for("cpu", 128, tokens) for tokens in (25, 50, 96, 512)]
    assert longer == [4, 4, 6, 8], "long rows differ more in length, and fill a matrix sooner"
