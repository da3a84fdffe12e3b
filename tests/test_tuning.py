from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tracemalloc
from array import array
from contextlib import nullcontext
from copy import deepcopy
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TEXTS
from datasets import Dataset
from sentence_transformers import (
    InputExample,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from sentence_transformers_mirror import (
    RECIPES,
    CharSpanMask,
    DocumentViews,
    MirrorLoss,
    dropout_rate,
    mirror_tune,
    two_views,
)
from sentence_transformers_mirror.training import packing
from sentence_transformers_mirror.training import trainer as of_trainer
from sentence_transformers_mirror.training.loss import LAYOUT, groups_for
from sentence_transformers_mirror.training.modes import trained_in_float32
from sentence_transformers_mirror.training.recipes import learning_rate_for
from sentence_transformers_mirror.training.trainer import Shuffled

FAST = {"batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path_factory, monkeypatch):
    """Every test runs in a folder that must be empty at the end."""
    folder = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(folder)
    yield folder


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_tunes_in_place_and_reports(tiny_model, texts, in_an_empty_folder):
    before = weights(tiny_model)
    embeddings = tiny_model.encode(texts)
    modes = [module.training for module in tiny_model.modules()]
    result = mirror_tune(tiny_model, [*texts, "", texts[0]], **FAST, max_texts=12)
    assert result.steps == len(result.losses) == 3
    assert result.texts == 12
    assert result.dropped == {"empty": 1, "duplicate": 1, "sampled out": len(texts) - 12}
    assert result.recipe.batch_size == 4 and result.recipe.temperature == 0.04
    assert 0 <= result.truncated <= 1 and result.seconds > 0 and not result.interrupted
    assert not same(before, weights(tiny_model)), "nothing was learnt"
    assert [module.training for module in tiny_model.modules()] == modes
    assert not np.allclose(embeddings, tiny_model.encode(texts), atol=1e-3)
    assert "forward" not in vars(tiny_model), "a wrapper was left on the model"
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    assert not list(in_an_empty_folder.iterdir()), "something was written where nobody asked for it"


def test_the_loss_is_told_the_lengths_of_rows(tiny_model, texts, monkeypatch):
    seen = []
    batch = MirrorLoss.batch
    monkeypatch.setattr(
        MirrorLoss, "batch", lambda self, features, labels: seen.extend(features) or batch(self, features, labels)
    )
    mirror_tune(tiny_model, texts, **FAST)
    assert len(seen) == len(texts) // 4
    assert all(isinstance(features[LAYOUT], np.ndarray) for features in seen)
    assert all((features[LAYOUT] == features["attention_mask"].numpy()).all() for features in seen)


def test_learns_what_it_is_for(tiny_model, texts):
    result = mirror_tune(tiny_model, texts, batch_size=16, epochs=30, learning_rate=1e-3)
    assert np.mean(result.losses[-5:]) < np.mean(result.losses[:5]) / 2


@pytest.mark.parametrize("kind", ["list", "generator", "dataset", "file"])
def test_texts_may_be_anything(tiny_model, texts, tmp_path, kind):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    sources = {"list": texts, "generator": iter(texts), "dataset": Dataset.from_dict({"text": texts}), "file": path}
    assert mirror_tune(tiny_model, sources[kind], **FAST).texts == len(texts)


def test_fewer_texts_than_a_batch(tiny_model):
    assert mirror_tune(tiny_model, ["one text", "another text"]).steps == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs(tiny_model, texts, recipe):
    result = mirror_tune(tiny_model, texts, recipe, batch_size=8)
    assert all(np.isfinite(result.losses))


def test_documents_are_tuned_on_by_their_parts(tiny_model, texts, monkeypatch):
    """Titles, crops, and labels by which equal documents are no negatives."""
    seen = []
    forward = MirrorLoss.forward

    def spy(self, features, labels=None):
        seen.append(([[str(ids) for ids in column["input_ids"].tolist()] for column in features], labels))
        return forward(self, features, labels)

    monkeypatch.setattr(MirrorLoss, "forward", spy)
    title = str(tiny_model.tokenizer("a woman and a man")["input_ids"])[:-1]
    documents = [("a woman and a man", " ".join(texts[number : number + 3])) for number in range(8)]
    result = mirror_tune(tiny_model, documents, "search", batch_size=8, epochs=4)
    assert result.steps == 4 and result.recipe.views == DocumentViews() and result.texts == 8
    anchors = [anchor for (anchors, _), _ in seen for anchor in anchors]
    assert 0 < sum(anchor.startswith(title) for anchor in anchors) < len(anchors)
    assert all(labels.dtype == torch.int64 and len(labels.unique()) == 8 for _, labels in seen)
    assert len({tuple(column) for columns, _ in seen for column in columns}) == 8, "other views in each epoch"
    # Titles say nothing to a recipe of single texts.
    seen.clear()
    mirror_tune(tiny_model, documents, batch_size=8)
    assert [len(columns) for columns, _ in seen] == [1] and title not in str(seen)


def test_the_rate_suits_the_size_of_the_model(tiny_model, texts):
    assert mirror_tune(tiny_model, texts, "search", batch_size=8).recipe.learning_rate == 3e-4
    assert learning_rate_for(110_000_000) == pytest.approx(2e-5)
    assert learning_rate_for(22_000_000) == pytest.approx(1e-4)


def test_the_rate_rises_and_falls(tiny_model, texts):
    rates = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])

    options = {"batch_size": 4, "epochs": 5, "learning_rate": 1e-4, "warm_up": 0.2, "callbacks": [Watch()]}
    mirror_tune(tiny_model, texts, "search", **options)
    rising = [2.5e-5, 5e-5, 7.5e-5, 1e-4]  # the rate of the next step
    assert rates == pytest.approx([*rising, *(1e-4 * (1 - step / 16) for step in range(1, 17))])
    rates.clear()
    mirror_tune(tiny_model, texts, **options)
    assert rates == pytest.approx([*rising, *[1e-4] * 16])


def test_an_evaluator_sees_the_model_before_and_after(tiny_model, texts):
    evaluator = EmbeddingSimilarityEvaluator(texts[:8], texts[8:], list(range(8)), show_progress_bar=False)
    result = mirror_tune(tiny_model, texts, **FAST, evaluator=evaluator)
    # Of eight pairs the ranks may well stay as they are; the cosines do not.
    assert result.before["pearson_cosine"] != result.after["pearson_cosine"]
    assert result.after == evaluator(tiny_model)


def test_a_prompt_is_put_before_each_text(tiny_model, texts):
    seen = []
    preprocess = tiny_model.preprocess

    def spy(inputs, prompt=None, **kwargs):
        seen.append(prompt)
        return preprocess(inputs, prompt=prompt, **kwargs)

    tiny_model.preprocess = spy
    mirror_tune(tiny_model, texts, **FAST, prompt="query: ")
    assert "query: " in seen


def test_reads_no_more_tokens_than_the_recipe_and_keeps_the_models_own_length(tiny_model, texts):
    lengths = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
            lengths.extend(batch["text_input_ids"].shape[1] for batch in train_dataloader)

    result = mirror_tune(tiny_model, texts, **FAST, max_length=9, callbacks=[Spy()])
    assert max(lengths) == 9
    assert result.truncated > 0.5
    assert tiny_model.max_seq_length == 64


@pytest.fixture(params=[torch.float16, torch.bfloat16])
def half(request):
    return request.param


def test_half_precision_checkpoints_tune_like_their_float32_copy(tiny_model, texts, half):
    low = tiny_model.to(half)
    full = deepcopy(low).float()
    assert mirror_tune(low, texts, **FAST).losses == mirror_tune(full, texts, **FAST).losses
    assert {p.dtype for p in low.parameters()} == {half}
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    for name, tensor in full.state_dict().items():
        torch.testing.assert_close(low.state_dict()[name], tensor.to(half), atol=0, rtol=0)


def test_dtypes_come_back_when_a_buffer_went(half):
    class Caching(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("cache", torch.zeros(1))

    module = nn.Sequential(Caching(), nn.Linear(2, 2)).to(half)
    with trained_in_float32(module):
        assert module[1].weight.dtype == torch.float32
        module[0].cache = None
    assert {p.dtype for p in module.parameters()} == {half}


def test_the_same_seed_gives_the_same_weights(make_model, texts):
    first, second, other = (make_model("bert") for _ in range(3))
    mirror_tune(first, texts, **FAST, seed=1)
    torch.rand(7), random.random(), np.random.rand()
    mirror_tune(second, texts, **FAST, seed=1)
    mirror_tune(other, texts, **FAST, seed=2)
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))


def trainer(model, loss, tmp_path, columns, **options):
    defaults = {"per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), disable_tqdm=True, max_grad_norm=0.0, **{**defaults, **options}
    )
    return SentenceTransformerTrainer(model=model, args=args, train_dataset=columns, loss=loss)


def test_workers_do_not_change_the_weights(make_model, texts, tmp_path):
    models = [make_model("bert") for _ in range(2)]
    for model, workers in zip(models, (0, 2), strict=True):
        dataset = Dataset.from_dict({"text": texts})
        trainer(model, MirrorLoss(model), tmp_path, dataset, dataloader_num_workers=workers, seed=7).train()
    assert same(weights(models[0]), weights(models[1]))


@pytest.mark.parametrize("ends", ["well", "by Ctrl-C", "by an error"])
def test_no_process_outlives_a_run(tiny_model, texts, monkeypatch, ends):
    monkeypatch.setattr("sentence_transformers_mirror.training.trainer._workers", lambda device: 1)
    alive = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            alive.append(len(active_children()))
            if ends == "by Ctrl-C":
                raise KeyboardInterrupt
            if ends == "by an error":
                raise ZeroDivisionError

    documents = [f"{text}\n\nIt is said here. It is said twice." for text in texts]
    with pytest.raises(ZeroDivisionError) if ends == "by an error" else nullcontext():
        mirror_tune(tiny_model, documents, "search", batch_size=16, epochs=2, callbacks=[Watch()], guard=False)
    assert alive[0] == 1
    assert active_children() == []


def test_a_recipe_for_longer_texts_cuts_its_batches_into_more_groups(tiny_model, monkeypatch):
    seen, plan = [], packing.plan_groups

    def noted(lengths, groups):
        seen.append(groups)
        return plan(lengths, groups)

    monkeypatch.setattr(packing, "plan_groups", noted)
    texts = [f"text number {n}" for n in range(64)]
    for tokens in (50, 200):
        mirror_tune(tiny_model, texts, "sentence", batch_size=64, max_length=tokens, guard=False)
    assert seen == [groups_for("cpu", 128), groups_for("cpu", 128, 200)] == [4, 8]


class Recorder(MirrorLoss):
    """Keeps the second view of each step, and the loss and gradients of the first."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.views, self.first = [], None

    def _second_view(self, features):
        view = super()._second_view(features)
        self.views.append(view["input_ids"].clone())
        return view

    def forward(self, features, labels=None):
        loss = super().forward(features, labels)
        if self.first is None and loss.requires_grad:
            parameters = dict(self.model.named_parameters())
            gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
            self.first = loss.detach(), dict(zip(parameters, gradients, strict=True))
        return loss


def fit(model, loss, texts, **options):
    loader = DataLoader([InputExample(texts=[text]) for text in texts], batch_size=4, shuffle=False)
    model.fit([(loader, loss)], warmup_steps=0, show_progress_bar=False, **options)


def test_trainer_and_fit_take_the_same_first_step(make_model, texts, tmp_path):
    """Dropout and masks off, one batch with all texts, so that the order of the rows does not matter."""
    recorded = []
    for run in ("trainer", "fit"):
        model = make_model("bert")
        loss = Recorder(model, mask=None)
        # A rate that is there and drops nothing: without any the loss refuses to make identical twins.
        with dropout_rate(model, 1e-12):
            if run == "fit":
                loader = DataLoader([InputExample(texts=[text]) for text in texts], batch_size=16)
                model.fit([(loader, loss)], warmup_steps=0, show_progress_bar=False)
            else:
                dataset = Dataset.from_dict({"text": texts})
                trainer(model, loss, tmp_path, dataset, per_device_train_batch_size=16, num_train_epochs=1).train()
        recorded.append(loss.first)
    (first, gradients), (second, others) = recorded
    torch.testing.assert_close(first, second)
    assert any(g is not None and g.any() for g in gradients.values())
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, others[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loop", ["fit", "old_fit", "trainer"])
def test_every_epoch_sees_fresh_masks_in_every_loop(tiny_model, texts, tmp_path, loop):
    loss = Recorder(tiny_model)
    before = weights(tiny_model)
    if loop == "trainer":
        trainer(tiny_model, loss, tmp_path, Dataset.from_dict({"text": [texts[0]] * 4}), num_train_epochs=3).train()
    else:
        loader = DataLoader([InputExample(texts=[texts[0]]) for _ in range(4)], batch_size=4)
        getattr(tiny_model, loop)(
            [(loader, loss)], epochs=3, warmup_steps=0, show_progress_bar=False, optimizer_params={"lr": 1e-3}
        )
    mask_id = tiny_model.tokenizer.mask_token_id
    epochs = [tuple(map(tuple, (view == mask_id).nonzero().tolist())) for view in loss.views]
    assert len(epochs) == 3
    assert len(set(epochs)) == 3, "the masks were frozen"
    if loop == "fit":
        loss_on_distinct = Recorder(tiny_model)
        fit(tiny_model, loss_on_distinct, texts, optimizer_params={"lr": 1e-3})
        assert not same(before, weights(tiny_model)), "nothing was learnt"


def test_the_papers_mask_as_a_transform(tiny_model, texts, tmp_path):
    dataset = Dataset.from_dict({"text": texts})
    dataset.set_transform(two_views(CharSpanMask(tiny_model.tokenizer)))
    before = weights(tiny_model)
    trainer(tiny_model, MirrorLoss(tiny_model), tmp_path, dataset, dataloader_num_workers=2, seed=1).train()
    assert not same(before, weights(tiny_model))


def test_no_text_of_the_corpus_is_saved(make_model, tmp_path):
    secrets = [f"SECRET{i} {text}" for i, text in enumerate(TEXTS)]
    mirror_tune(make_model("bert"), secrets, **FAST, output_dir=tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files)
    assert any(path.name == "README.md" for path in files)
    for path in files:
        content = path.read_bytes()
        assert b"SECRET" not in content, path
        assert not any(text.encode() in content for text in TEXTS), path


def test_memory_is_given_back_before_and_every_fifty_steps(tiny_model, texts, monkeypatch):
    calls = []
    monkeypatch.setattr(of_trainer, "give_memory_back", lambda: calls.append(1))
    result = mirror_tune(tiny_model, texts, batch_size=8, epochs=52)
    assert result.steps == len(result.losses) == 104 and len(calls) == 3


def test_the_card_says_how_the_model_was_made(tiny_model, texts, tmp_path):
    tiny_model.model_card_data.base_model = "somebody/some-model"
    evaluator = EmbeddingSimilarityEvaluator(texts[:8], texts[8:], [i / 8 for i in range(8)], name="some-set")
    result = mirror_tune(tiny_model, texts, **FAST, output_dir=tmp_path / "out", evaluator=evaluator)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = card.split("---")[1]
    assert "base_model: somebody/some-model" in header
    assert "- mirror-bert\n" in header and "- self-supervised\n" in header
    assert "liu2021fast" in card and "MirrorLoss" in card
    assert "`recipe`: Recipe(temperature=0.04, mask=0.1" in card
    assert f"{result.losses[-1]:.4f}" in card
    assert f"**{round(result.after['some-set_spearman_cosine'], 4)}**" in card


def test_push_to_hub(tiny_model, texts, monkeypatch):
    """What plain sentence-transformers uploads after tuning, with the hub played by a stub."""
    uploaded = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **kwargs):
            files = [path for path in Path(folder_path).rglob("*") if path.is_file()]
            uploaded.update({path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files})
            return SimpleNamespace(oid="0", commit_url="")

        def __getattr__(self, name):
            raise AssertionError(f"an unexpected call to the hub: {name}")

    monkeypatch.setattr("sentence_transformers.base.model.HfApi", Hub)
    mirror_tune(tiny_model, texts, **FAST)
    tiny_model.push_to_hub("somebody/tuned")
    assert {"README.md", "modules.json", "model.safetensors", "tokenizer.json"} <= set(uploaded)
    card = uploaded["README.md"].decode()
    assert "somebody/tuned" in card and "mirror-bert" in card
    assert not any(text.encode() in content for text in texts if len(text) > 10 for content in uploaded.values())


LOAD = """
import builtins, sys
find = builtins.__import__
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sentence_transformers_mirror":
            raise ImportError("blocked")
sys.meta_path.insert(0, Block())
import numpy as np
from sentence_transformers import SentenceTransformer
try:
    import sentence_transformers_mirror
except ImportError:
    pass
else:
    raise SystemExit("the package could be imported")
model = SentenceTransformer(sys.argv[1], device="cpu")
assert not any(name.startswith("sentence_transformers_mirror") for name in sys.modules)
np.savez(sys.argv[2], embeddings=model.encode(open(sys.argv[3], encoding="utf-8").read().split("\\n")),
         length=model.max_seq_length, dtype=str(next(model.parameters()).dtype))
"""


def test_a_saved_model_loads_without_this_package(make_model, texts, tmp_path):
    model = make_model("bert")
    mirror_tune(model, texts, **FAST, output_dir=tmp_path / "out")
    (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
    arguments = [str(tmp_path / part) for part in ("out", "loaded.npz", "texts")]
    subprocess.run([sys.executable, "-c", LOAD, *arguments], check=True)
    loaded = np.load(tmp_path / "loaded.npz")
    assert np.abs(loaded["embeddings"] - model.encode(texts)).max() < 1e-6
    assert int(loaded["length"]) == model.max_seq_length == 64
    assert str(loaded["dtype"]) == "torch.float32"


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Python's own handler of SIGINT, which a shell takes away from what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_a_usable_model_and_says_where_it_stopped(tiny_model, texts, tmp_path, caplog, ctrl_c):
    before = weights(tiny_model)
    result = mirror_tune(tiny_model, texts, **FAST, callbacks=[StopAt(2)], output_dir=tmp_path / "out")
    assert result.interrupted
    assert result.steps == len(result.losses) == 2
    assert "at step 2 of 4" in caplog.text
    assert not same(before, weights(tiny_model))
    assert np.isfinite(tiny_model.encode(texts)).all()
    loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert np.allclose(loaded.encode(texts), tiny_model.encode(texts), atol=1e-6)


def test_a_loss_that_is_no_number_gives_the_weights_back(tiny_model, texts):
    before = weights(tiny_model)
    with pytest.raises(FloatingPointError, match=r"step \d+.*learning rate of 1e\+30 .*original weights"):
        mirror_tune(tiny_model, texts, batch_size=4, learning_rate=1e30, epochs=3)
    assert same(before, weights(tiny_model))
    assert np.isfinite(tiny_model.encode(texts)).all()


def test_a_model_that_is_broken_already_is_told_so(tiny_model, texts):
    with torch.no_grad():
        next(tiny_model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1.*own weights"):
        mirror_tune(tiny_model, texts, **FAST)


# Bad input: one clear sentence, nothing lost.


def assert_untouched(model, *args, error, match, **kwargs):
    before = weights(model)
    with pytest.raises(error, match=match) as raised:
        mirror_tune(model, *args, **kwargs)
    assert "\n" not in str(raised.value)
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([], "has no text"),
        (["only one"], "Only one distinct text is left of 1"),
        (["equal"] * 9, "Only one distinct text is left of 9"),
        (["a", None], "Row 1 of texts is None"),
        (["a", 2.5], "Row 1 of texts is 2.5"),
        (5, "must be a file"),
    ],
)
def test_texts_of_no_use(tiny_model, texts, match):
    assert_untouched(tiny_model, texts, error=ValueError, match=match)


def test_a_batch_that_does_not_fit_is_embedded_in_parts(make_model, texts):
    plain, cached = make_model("bert"), make_model("bert")
    options = {"batch_size": 8, "dropout": 0.0}
    expected = mirror_tune(plain, texts, **options).losses
    result = mirror_tune(cached, texts, **options, mini_batch_size=4)
    assert result.recipe.mini_batch_size == 4
    np.testing.assert_allclose(result.losses, expected, rtol=1e-3)


def test_texts_that_are_mostly_cut_off_are_reported(tiny_model, texts, caplog):
    result = mirror_tune(tiny_model, texts, max_length=5)
    assert result.truncated > 0.2
    assert "split them into sentences" in caplog.text
    caplog.clear()
    assert mirror_tune(tiny_model, texts).truncated == 0
    assert "split them" not in caplog.text


def test_a_text_of_a_million_characters(tiny_model, texts):
    result = mirror_tune(tiny_model, [*texts, "word " * 200_000], **FAST)
    assert result.texts == len(texts) + 1
    assert all(np.isfinite(result.losses))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"recipe": "sentense"}, "did you mean 'sentence'"),
        ({"learning_rte": 1}, "did you mean 'learning_rate'"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
    ],
)
def test_recipes_of_no_use(tiny_model, texts, options, match):
    assert_untouched(tiny_model, texts, error=ValueError, match=match, **options)


def test_files_of_no_use(tiny_model, tmp_path):
    assert_untouched(tiny_model, tmp_path / "absent.txt", error=FileNotFoundError, match="There is no file")
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    assert_untouched(tiny_model, tmp_path / "binary", error=ValueError, match="no text file")
    (tmp_path / "latin").write_bytes("\xe4\n\xf6".encode("latin-1"))
    assert_untouched(tiny_model, str(tmp_path / "latin"), error=ValueError, match="is not UTF-8")


def test_an_output_folder_that_cannot_be_written(tiny_model, texts, tmp_path):
    (tmp_path / "file").write_text("")
    assert_untouched(tiny_model, texts, error=OSError, match="cannot be written", output_dir=tmp_path / "file" / "out")
    assert_untouched(tiny_model, texts, error=OSError, match="cannot be written", output_dir=tmp_path / "file")


@pytest.mark.parametrize("path", ["/does/not/exist", "no-such-name"])
def test_a_model_that_is_not_there(texts, path):
    with pytest.raises(OSError, match="could not be loaded: no such folder"):
        mirror_tune(path, texts)


def test_an_audio_model_is_refused(texts, tmp_path):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ASTModel(ASTConfig(**small)).save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reads audio and no text"):
        mirror_tune(str(tmp_path), texts)


def test_a_static_model_is_refused(texts):
    from conftest import wordpiece_tokenizer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = StaticEmbedding(wordpiece_tokenizer().backend_tokenizer, embedding_dim=8)
    with pytest.raises(ValueError, match="static embeddings, image and audio models cannot be mirror-tuned"):
        mirror_tune(SentenceTransformer(modules=[static], device="cpu"), texts)


def test_the_package_itself_is_light():
    code = "import sys, sentence_transformers_mirror as m; m.embedded_model_path(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    import sentence_transformers_mirror as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    assert Path(package.embedded_model_path(), "config.json").exists()
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = package.absent


def test_tuning_takes_its_own_order(tiny_model, texts, monkeypatch):
    orders = []
    monkeypatch.setattr(Shuffled, "__iter__", lambda self: orders.append(len(self)) or iter(range(len(self))))
    mirror_tune(tiny_model, texts, **FAST, epochs=2)
    assert orders == [len(texts)] * 2


def test_the_order_of_rows_is_not_held_in_memory():
    rows = 200_000
    shuffled = Shuffled(rows, torch.Generator().manual_seed(3))
    tracemalloc.start()
    first = array("q", shuffled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shuffled) == rows and peak < 2.5 * 8 * rows  # a list takes 5 times the bytes of the numbers
    assert first.tolist() == torch.randperm(rows, generator=torch.Generator().manual_seed(3)).tolist()
    again = list(shuffled)
    assert again != first.tolist() and sorted(again) == sorted(first)
