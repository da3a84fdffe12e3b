"""What people already do with sentence-transformers keeps working with MirrorLoss, or says why not."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Router

from sentence_transformers_mirror import CachedMirrorLoss, MirrorLoss, mirror_tune


@pytest.fixture(params=[MirrorLoss, CachedMirrorLoss])
def mirror(request):
    return request.param


def train(model, loss, folder, data, resume=None, **options):
    options = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "save_strategy": "no", **options}
    eval_dataset = options.pop("eval_dataset", None)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), learning_rate=1e-3, report_to="none", use_cpu=True, disable_tqdm=True, **options
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=data, eval_dataset=eval_dataset, loss=loss
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before, model):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def routed(*models):
    first, second = ([model[0], model[1]] for model in models)
    router = Router.for_query_document(query_modules=first, document_modules=second)
    return SentenceTransformer(modules=[router], device="cpu")


def test_a_router_trains_the_route_that_is_named(make_model, texts, tmp_path, mirror):
    model = routed(make_model("bert"), make_model("bert"))
    before = weights(model)
    data = Dataset.from_dict({"text": texts})
    train(model, mirror(model), tmp_path, data, router_mapping={"text": "document"})
    names = changed(before, model)
    assert names and all(name.startswith("0.sub_modules.document.") for name in names)


def test_routes_of_different_vocabularies_need_a_loss_without_mask(make_model, texts, tmp_path):
    model = routed(make_model("bert"), make_model("roberta"))
    with pytest.raises(ValueError, match="different vocabularies; pass mask=None"):
        MirrorLoss(model)
    before = weights(model)
    data = Dataset.from_dict({"question": texts, "answer": texts[::-1]})
    mapping = {"question": "query", "answer": "document"}
    train(model, MirrorLoss(model, mask=None), tmp_path, data, router_mapping=mapping)
    assert {name.split(".")[2] for name in changed(before, model)} == {"query", "document"}


def test_other_losses_on_other_datasets_beside_it(tiny_model, texts, tmp_path, mirror):
    class Counting(mirror):
        calls = 0

        def forward(self, *args, **kwargs):
            Counting.calls += 1
            return super().forward(*args, **kwargs)

    data = {
        "raw": Dataset.from_dict({"text": texts}),
        "pairs": Dataset.from_dict({"question": texts[:8], "answer": texts[8:]}),
    }
    losses = {"raw": Counting(tiny_model), "pairs": MultipleNegativesRankingLoss(tiny_model)}
    trainer = train(tiny_model, losses, tmp_path, data)
    assert trainer.state.global_step == 6
    assert Counting.calls == 4


def test_an_adapter_is_tuned_and_its_base_is_not(tiny_model, texts):
    tiny_model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"]))
    before = weights(tiny_model)
    mirror_tune(tiny_model, texts, batch_size=4, learning_rate=1e-3)
    names = changed(before, tiny_model)
    assert names and all("lora" in name for name in names)


def test_a_compiled_model(tiny_model, texts, tmp_path, mirror):
    before = weights(tiny_model)
    data = Dataset.from_dict({"text": texts})
    train(tiny_model, mirror(tiny_model), tmp_path, data, torch_compile=True, torch_compile_backend="eager")
    assert changed(before, tiny_model)


def test_resumed_equals_uninterrupted(make_model, texts, tmp_path, mirror):
    data = Dataset.from_dict({"text": texts})
    whole, resumed = make_model("bert"), make_model("bert")
    train(whole, mirror(whole), tmp_path, data, save_strategy="steps", save_steps=2, seed=5)
    checkpoint = str(tmp_path / "checkpoint-2")
    torch.rand(7)
    trainer = train(resumed, mirror(resumed), tmp_path / "again", data, resume=checkpoint, seed=5)
    assert trainer.state.global_step == 4
    assert not changed(weights(whole), resumed), "masks, dropout or order of the remaining steps differ"


def test_the_best_model_is_loaded_at_the_end(tiny_model, texts, tmp_path, mirror):
    data = Dataset.from_dict({"text": texts})
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = train(
        tiny_model,
        mirror(tiny_model),
        tmp_path,
        data,
        eval_dataset=data,
        per_device_eval_batch_size=16,
        load_best_model_at_end=True,
        **options,
    )
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    assert len(set(losses)) == 4
    assert trainer.state.best_metric == min(losses)
    best = SentenceTransformer(str(tmp_path / f"checkpoint-{1 + losses.index(min(losses))}"), device="cpu")
    assert not changed(weights(best), tiny_model)


def test_the_models_own_prompt_is_used_and_can_be_replaced(tiny_model, texts, monkeypatch):
    prompts = []
    preprocess = tiny_model.preprocess
    monkeypatch.setattr(
        tiny_model,
        "preprocess",
        lambda *args, prompt=None, **kwargs: (
            # Batches to train on, not what the host embeds for its model card.
            ("max_length" in kwargs and prompts.append(prompt)) or preprocess(*args, prompt=prompt, **kwargs)
        ),
    )
    tiny_model.prompts = {"document": "passage: ", "topic": "topic: "}
    for given, expected in ((None, None), ("other: ", "other: ")):
        mirror_tune(tiny_model, texts, prompt=given)
        assert set(prompts) == {expected}
        prompts.clear()
    tiny_model.default_prompt_name = "topic"
    mirror_tune(tiny_model, texts)
    assert set(prompts) == {"topic: "}


def test_adaptive_layers_are_refused(tiny_model, texts, mirror):
    tiny_model.train()
    with pytest.warns() if mirror is CachedMirrorLoss else nullcontext():
        loss = AdaptiveLayerLoss(tiny_model, mirror(tiny_model))
    with pytest.raises(ValueError, match="use MatryoshkaLoss around MirrorLoss"):
        loss([tiny_model.preprocess(texts)], None)
    assert mirror(tiny_model)([tiny_model.preprocess(texts)]).isfinite()


def test_unpadded_features_of_flash_attention_are_refused(tiny_model, mirror):
    flat = {
        "input_ids": torch.tensor([[2, 7, 3, 2, 8, 9, 3]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]]),
        "cu_seq_lens_q": torch.tensor([0, 3, 7]),
    }
    with pytest.raises(ValueError, match="unpad_inputs=False"):
        mirror(tiny_model)([flat])
