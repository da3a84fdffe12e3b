"""Which model made an index, and whether it still is that model."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURES
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from tokenizers import normalizers, pre_tokenizers

from sentence_transformers_mirror import SearchIndex, dropout_rate, embedded_model_path, mirror_tune
from sentence_transformers_mirror.search.encoder import Encoder, fingerprint
from sentence_transformers_mirror.search.state import Identity


def _activation(model: SentenceTransformer) -> None:
    for module in model[0].auto_model.modules():
        for name, value in vars(module).items():
            if "act" in name and callable(value):
                setattr(module, name, torch.nn.functional.relu)
                return
        for name, _ in module.named_children():
            if "act" in name:
                setattr(module, name, torch.nn.Softsign())
                return
    raise AssertionError("no activation was found")


def _epsilon(model: SentenceTransformer) -> None:
    model[0].auto_model.config.update({"layer_norm_eps": 0.5, "rms_norm_eps": 0.5, "norm_eps": 0.5})


def _swapped(model: SentenceTransformer) -> None:
    tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.StripAccents()])


CHANGES = {
    "one number": lambda m: next(m.parameters()).data.view(-1)[5].add_(1),
    "activation": _activation,
    "config": _epsilon,
    "pooling": lambda m: setattr(m[1], "pooling_mode", "max"),
    "prompt": lambda m: m.prompts.update(query="query: "),
    "default prompt": lambda m: (m.prompts.update(query="q"), setattr(m, "default_prompt_name", "query")),
    "length": lambda m: setattr(m, "max_seq_length", 7),
    "truncation": lambda m: setattr(m, "truncate_dim", 8),
    "padding side": lambda m: setattr(
        m.tokenizer, "padding_side", "left" if m.tokenizer.padding_side == "right" else "right"
    ),
    "vocabulary": lambda m: m.tokenizer.add_tokens(["zebra"]),
    "normaliser": _swapped,
    "words": lambda m: setattr(m.tokenizer.backend_tokenizer, "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
    "a module more": lambda m: m.append(Normalize()),
    "dtype": lambda m: m.half(),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fingerprint_sees_what_changes_an_embedding_and_nothing_else(architecture, make_model, tmp_path, texts):
    model = make_model(architecture)
    known = fingerprint(model)
    model.encode(texts[:4], batch_size=2)
    model.encode(texts[:2])
    with dropout_rate(model, 0.3):
        pass
    model.train()
    assert fingerprint(model) == known
    model.save_pretrained(str(tmp_path / "saved"))
    assert fingerprint(model) == known
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert fingerprint(loaded) == known
    for name, change in CHANGES.items():
        changed = copy.deepcopy(loaded)
        assert fingerprint(changed) == known
        change(changed)
        assert fingerprint(changed) != known, name


def test_a_model_without_a_pooler_is_the_same_each_time_it_is_loaded(tmp_path, make_model, texts):
    """transformers draws a pooler at random where a checkpoint has none, as that of a masked language model."""
    make_model("bert").save_pretrained(str(tmp_path / "model"))
    weights = next((tmp_path / "model").rglob("model.safetensors"))
    kept = {name: value for name, value in load_file(weights).items() if "pooler" not in name}
    save_file(kept, weights, {"format": "pt"})
    first, second = (SentenceTransformer(str(tmp_path / "model"), device="cpu") for _ in range(2))
    poolers = [dict(model.named_parameters()) for model in (first, second)]
    assert any("pooler" in name and not torch.equal(value, poolers[1][name]) for name, value in poolers[0].items())
    assert fingerprint(first) == fingerprint(second)
    SearchIndex.build(first, texts).save(tmp_path / "index")
    index = SearchIndex.load(tmp_path / "index", second)
    assert index.search(texts[3])[0].text == texts[3]
    # What an earlier release wrote is still known, with the pooler in it.
    index._state = replace(index._state, model=Identity(fingerprint(second, kind="v2-")))
    index.save(tmp_path / "earlier")
    assert SearchIndex.load(tmp_path / "earlier", second).facts()["fingerprint"] == fingerprint(second)
    with pytest.raises(ValueError, match="built by another model"):
        SearchIndex.load(tmp_path / "earlier", first)
    second[0].model.pooler.dense.weight.data.zero_()
    assert index.search(texts[3])[0].text == texts[3]


def test_fingerprint_of_a_dense_module_knows_its_activation(tiny_model):
    other = copy.deepcopy(tiny_model)
    dense = Dense(32, 16, activation_function=torch.nn.Tanh())
    tiny_model.append(dense)
    other.append(copy.deepcopy(dense))
    assert fingerprint(tiny_model) == fingerprint(other)
    other[2].activation_function = torch.nn.ReLU()
    assert fingerprint(tiny_model) != fingerprint(other)


def _stepped(optimizer: type, **options: object):
    def change(model: SentenceTransformer) -> None:
        taught = optimizer(model.parameters(), lr=1e-2, **options)
        features = model.preprocess(["a text", "and another one"])
        model(features)["sentence_embedding"].square().sum().backward()
        taught.step()

    return change


def _through_data(model: SentenceTransformer) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def _replaced(model: SentenceTransformer) -> None:
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def _one_row_through_data(model: SentenceTransformer) -> None:
    model[0].auto_model.get_input_embeddings().weight.data[7, 3] += 1


UNNOTICED_BY_TORCH = {
    "mirror_tune": lambda m: mirror_tune(
        m, [f"text {n} about {n % 7} cats" for n in range(32)], epochs=1, batch_size=16, max_length=16
    ),
    "SGD": _stepped(torch.optim.SGD),
    "Adam": _stepped(torch.optim.Adam),
    "AdamW": _stepped(torch.optim.AdamW),
    "AdamW, fused": _stepped(torch.optim.AdamW, fused=True),
    "AdamW, one by one": _stepped(torch.optim.AdamW, foreach=False),
    "Adagrad": _stepped(torch.optim.Adagrad),
    "RMSprop": _stepped(torch.optim.RMSprop),
    "data": _through_data,
    "a row through data": _one_row_through_data,
    "another parameter": _replaced,
    "other weights": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "normaliser": _swapped,
    "padding side": CHANGES["padding side"],
    "pooling": CHANGES["pooling"],
}


@pytest.mark.parametrize("change", UNNOTICED_BY_TORCH)
def test_a_model_that_was_changed_is_refused(change, tiny_model, texts):
    index = SearchIndex.build(tiny_model, texts)
    assert index.search(texts[0])[0].text == texts[0]
    UNNOTICED_BY_TORCH[change](tiny_model)
    with pytest.raises(ValueError, match="rebuild"):
        end = time.perf_counter() + (20 if change == "a row through data" else 0)  # that is seen at intervals
        while time.perf_counter() < end:
            index.search(texts[0])
        index.search(texts[0])
    with pytest.raises(ValueError, match="rebuild"):
        index.add(["one more text"])
    assert len(index) == len(texts)
    index.rebuild(tiny_model)
    assert index.search(texts[0])[0].text == texts[0]


def test_a_model_that_was_touched_and_not_changed_is_not_refused(tiny_model, texts):
    index = SearchIndex.build(tiny_model, texts)
    for parameter in tiny_model.parameters():
        parameter.data = parameter.data.clone()
    assert index.search(texts[0])[0].text == texts[0]


def test_an_old_fingerprint_says_what_to_do(tiny_model, texts, tmp_path):
    index = SearchIndex.build(tiny_model, texts)
    index._state = replace(index._state, model=Identity("0" * 64))
    index.save(tmp_path)
    with pytest.raises(ValueError, match="earlier release.*rebuild"):
        SearchIndex.load(tmp_path, tiny_model)
    opened = SearchIndex.load(tmp_path)
    opened.rebuild(tiny_model)
    opened.save(tmp_path)
    assert SearchIndex.load(tmp_path, tiny_model).search(texts[3])[0].text == texts[3]


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_is_one_as_well(texts, tmp_path):
    whole = SentenceTransformer(embedded_model_path(), device="cpu")
    model = torch.ao.quantization.quantize_dynamic(whole, {torch.nn.Linear}, dtype=torch.qint8)
    assert fingerprint(model) != fingerprint(whole)
    index = SearchIndex.build(model, texts)
    index.save(tmp_path)
    assert SearchIndex.load(tmp_path, model).search(texts[2])[0].text == texts[2]


def test_looking_costs_little(tiny_model):
    encoder = Encoder(tiny_model)
    taken = []
    for _ in range(50):
        start = time.perf_counter()
        encoder.verify()
        taken.append(time.perf_counter() - start)
    assert sorted(taken)[25] < 0.02  # milliseconds on any machine; encoding a query takes tens
