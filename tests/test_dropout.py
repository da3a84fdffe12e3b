from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
import transformers
from conftest import ARCHITECTURES
from packaging.version import Version
from peft import LoraConfig
from transformers import AttentionInterface

from sentence_transformers_mirror import drophead, dropout_rate
from sentence_transformers_mirror.training.dropout import has_dropout

WITHOUT_DROPHEAD = ["mpnet", "deberta-v2"]
DROPHEAD = [name for name in ARCHITECTURES if name not in WITHOUT_DROPHEAD]


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_model):
    return make_model(request.param)


def embed(model, texts, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(model.preprocess(texts))["sentence_embedding"]


def trace(model, folder):
    """All that a context could leave behind: structure, attributes, weights and what is saved."""
    model.save_pretrained(str(folder), create_model_card=False)
    numbers = [{k: v for k, v in vars(module).items() if isinstance(v, (int, float))} for module in model.modules()]
    for attributes in numbers:
        del attributes["training"]
    return (
        repr(model),
        numbers,
        json.loads((folder / "config.json").read_text()),
        model[0].auto_model.config._attn_implementation,
    )


def test_rate_is_reached_and_leaves_no_trace(model, texts, tmp_path):
    before = trace(model, tmp_path / "before")
    quiet = embed(model.eval(), texts)
    with dropout_rate(model, 0.3):
        model.train()
        assert has_dropout(model)
        noisy = embed(model, texts)
        model.save_pretrained(str(tmp_path / "open"), create_model_card=False)
        model.eval()
        assert torch.equal(embed(model, texts), quiet), "dropout must not touch evaluation"
        with dropout_rate(model.train(), 0.0):
            assert not has_dropout(model)
            torch.testing.assert_close(embed(model, texts), quiet)
        model.eval()
    assert not torch.allclose(noisy, quiet, atol=1e-3)
    assert trace(model, tmp_path / "after") == before
    assert json.loads((tmp_path / "open/config.json").read_text()) == before[2]


def test_every_layer_drops(make_model, texts):
    """ModernBERT with rate 0 keeps its rates as nn.Dropout, as floats and as nn.Identity: each must be reached."""
    model = make_model("modernbert").train()
    layer = model[0].auto_model.layers[0]
    with dropout_rate(model, 0.3):
        assert layer.attn.attention_dropout == 0.3
        assert layer.attn.out_drop.p == 0.3
        assert layer.mlp.drop.p == 0.3
        assert model[0].auto_model.embeddings.drop.p == 0.3
    assert isinstance(layer.attn.out_drop, torch.nn.Identity)
    assert layer.attn.attention_dropout == 0.0


def test_rate_is_restored_whatever_is_raised(tiny_model, tmp_path):
    before = trace(tiny_model, tmp_path / "before")
    with pytest.raises(KeyboardInterrupt), dropout_rate(tiny_model, 0.5), drophead(tiny_model, 0.5):
        raise KeyboardInterrupt
    assert trace(tiny_model, tmp_path / "after") == before


def test_an_adapters_dropout_is_left_alone(tiny_model):
    tiny_model.add_adapter(LoraConfig(r=2, lora_dropout=0.7, target_modules=["query"]))
    adapters = [module for name, module in tiny_model.named_modules() if "lora_dropout" in name]
    rates = [module.p for module in adapters if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.7, 0.7]
    with dropout_rate(tiny_model, 0.0):
        assert rates == [module.p for module in adapters if isinstance(module, torch.nn.Dropout)]


@pytest.mark.parametrize("name", DROPHEAD)
def test_drophead_drops_whole_heads_of_rows(make_model, texts, name, tmp_path):
    model = make_model(name)
    since = {"modernbert": "5.7", "t5": "5.15"}.get(name, "5.0")
    if Version(transformers.__version__) < Version(since):
        with pytest.raises(ValueError, match="DropHead would do nothing"), drophead(model, 0.5):
            pass
        return
    before = trace(model, tmp_path / "before")
    quiet = embed(model.eval(), texts)
    with dropout_rate(model, 0.0), drophead(model, 0.5):
        assert torch.equal(embed(model, texts), quiet), "padding was attended to, or evaluation was touched"
        model.train()
        assert has_dropout(model)
        noisy = embed(model, texts)
        model.eval()
    assert not torch.allclose(noisy, quiet, atol=1e-3)
    assert trace(model, tmp_path / "after") == before


def test_drophead_keeps_the_expectation_and_survives_the_loss_of_every_head(tiny_model):
    with drophead(tiny_model, 0.5):
        attention = AttentionInterface()[tiny_model[0].auto_model.config._attn_implementation]
        module = tiny_model[0].auto_model.encoder.layer[0].attention.self.train()
        query = torch.randn(2000, 4, 3, 8)
        ones = torch.ones(2000, 4, 3, 8)
        torch.manual_seed(0)
        output, _ = attention(module, query, ones, ones, None, dropout=0.0, scaling=1.0, is_causal=False)
    heads = output[:, 0, :, 0]
    assert output.isfinite().all()
    assert torch.equal(output, heads[:, None, :, None].expand_as(output)), "a head is dropped as a whole"
    assert (heads == 0).all(1).any(), "with 4 heads at 0.5 some row loses all of them"
    kept = (heads > 0).sum(1)
    torch.testing.assert_close(heads.sum(1), torch.where(kept > 0, 4.0, 0.0))
    assert abs((heads > 0).float().mean().item() - 0.5) < 0.03


def test_drophead_is_refused_where_it_would_do_nothing(make_model, texts):
    model = make_model("mpnet").train()
    state = deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="DropHead would do nothing in MPNetModel"), drophead(model, 0.2):
        pass
    assert model[0].auto_model.config._attn_implementation != "drophead_probe"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("context", [dropout_rate, drophead])
@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_probability_out_of_range(context, p, tiny_model):
    with pytest.raises(ValueError, match="probability of dropping"), context(tiny_model, p):
        pass


def test_no_dropout_to_set():
    with pytest.raises(ValueError, match="no dropout to set"), dropout_rate(torch.nn.Linear(2, 2), 0.1):
        pass
