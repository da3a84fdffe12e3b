from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from datasets import Dataset

from sentence_transformers_mirror import mirror_tune
from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.evidence.verdict import Measurement
from sentence_transformers_mirror.training import guard
from sentence_transformers_mirror.training.guard import hold_out
from sentence_transformers_mirror.training.recipes import RECIPES

NOUNS = ["cat", "dog", "file", "list", "window", "knife", "road", "ship", "song", "tree"]
DOCUMENTS = [
    f"The {a} {n} sat by the {b}. Then {n} left for the {c}."
    for n, (a, b, c) in enumerate((a, b, c) for a in NOUNS for b in NOUNS for c in NOUNS[:6])
]
SINGLE = [document.split(". ")[0] for document in DOCUMENTS]
SHORT = {"batch_size": 180, "max_length": 12}  # three steps, of which the second and the third are measured


def ranks(value):
    vectors = np.eye(2, dtype=np.float32)
    return lambda count: Measurement(vectors, vectors, *[np.full(count, value)] * 2, {}, np.full(count, value))


def measured_as(monkeypatch, values):
    """Replace measuring by given mean ranks, one after the other."""
    left = list(values)
    monkeypatch.setattr(guard, "measure", lambda model, parts, **_: ranks(left.pop(0))(len(parts.queries)))
    return left


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_texts_set_aside_are_not_tuned_on():
    dataset, parts = hold_out(Dataset.from_dict({"text": DOCUMENTS}), RECIPES["sentence"], seed=1)
    aside = {f"{query} {passage}" for query, passage in zip(parts.queries, parts.passages, strict=True)}
    assert 50 <= len(aside) <= 60 and aside | set(dataset["text"]) == set(DOCUMENTS)
    assert aside.isdisjoint(dataset["text"])
    again = hold_out(Dataset.from_dict({"text": DOCUMENTS}), RECIPES["sentence"], seed=1)
    assert again[1].queries == parts.queries and again[0]["text"] == dataset["text"]


@pytest.mark.parametrize("texts", [SINGLE, DOCUMENTS[:300], SINGLE[:400] + DOCUMENTS[:200], DOCUMENTS[:10] * 60])
def test_without_structure_nothing_is_set_aside(texts):
    dataset = Dataset.from_dict({"text": texts})
    assert hold_out(dataset, RECIPES["sentence"], seed=1) == (dataset, None)


def test_measuring_costs_a_tenth_of_the_time():  # before, twice while tuning, and the mean
    long = [f"{text} {'More is said here. ' * 60}" for text in DOCUMENTS] * 3
    long = [f"{n} {text}" for n, text in enumerate(long)]
    recipe = dataclasses.replace(RECIPES["sentence"], max_length=50)
    dataset, parts = hold_out(Dataset.from_dict({"text": long}), recipe, seed=1)
    read = 4 * sum(len(query) + len(passage) for query, passage in zip(parts.queries, parts.passages, strict=True))
    assert read <= 0.1 * 6 * 250 * len(long) and len(parts.queries) >= 50


TITLED = [
    (f"{text.split()[1]} {n}", f"{text.split()[1]} {n}: {text} Nobody saw {n} again.")
    for n, text in enumerate(DOCUMENTS)
]


def titled(pairs):
    titles, texts = zip(*pairs, strict=True)
    return Dataset.from_dict({"title": titles, "text": texts})


def test_what_judges_is_not_taught_and_no_document_is_both():
    """The structure that is asked is no view of the recipe, however often its views are drawn."""
    again = [("Another title", TITLED[n][1].split(": ", 1)[1]) for n in range(600)]  # of the same body
    dataset, parts = hold_out(titled([*TITLED, *again]), RECIPES["search"], seed=1)
    assert parts.structure == "first sentence and the rest" and parts.structure not in RECIPES["search"].views.teaches
    assert len(parts.queries) >= 50
    # Neither side is in a document that is left, under any title.
    left = "\n".join(dataset["text"])
    assert not any(
        query in left or passage in left for query, passage in zip(parts.queries, parts.passages, strict=True)
    )
    assert len(dataset) + 2 * len(parts.queries) == 1200
    # What is asked of a document is never what its views ask.
    views = dataclasses.replace(RECIPES["search"].views, deleted=0)
    asked = set(zip(parts.queries, parts.passages, strict=True))
    of_two_sentences = {(query, passage.split(". ")[0] + ".") for query, passage in asked}
    for pairs in (of_two_sentences, asked):
        documents = [f"{query} {passage}" for query, passage in pairs]
        taught = set()
        for seed in range(200):
            torch.manual_seed(seed)
            made = views({"text": documents})
            taught.update(zip(made["anchor"], made["positive"], strict=True))
        # Neither forwards nor backwards, as it is asked.
        assert len(taught) > 1000 and not taught & (pairs | {(passage, query) for query, passage in pairs})
    # The same draws with first sentences allowed would find them: the assertion above can fail.
    assert {query for query, _ in asked} & {anchor.split(". ")[0] + "." for anchor, _ in taught}


def test_titles_judge_on_request_and_are_then_not_taught(tiny_model):
    bodies = titled([(f"{text.split()[1]} {n}", text.split(". ")[0]) for n, text in enumerate(DOCUMENTS)])
    assert hold_out(bodies, RECIPES["search"], seed=1) == (bodies, None)
    recipe = dataclasses.replace(RECIPES["search"], batch_size=180, max_length=12, epochs=2)
    result = mirror_tune(tiny_model, bodies, recipe, guard=True)
    assert result.evidence.structure == "title and body" and result.recipe.views.titles == 0
    assert result.evidence.structure not in result.recipe.views.teaches
    assert mirror_tune(tiny_model, titled(TITLED), recipe, guard=True).recipe.views.titles > 0


def test_the_best_step_is_kept(tiny_model, monkeypatch):
    left = measured_as(monkeypatch, [0.2, 0.6, 0.4, 0.6])
    seen = []
    look = guard.Guard._look
    monkeypatch.setattr(
        guard.Guard,
        "_look",
        lambda self, *args, **kw: seen.append((*args, weights(self.model))) or look(self, *args, **kw),
    )
    result = mirror_tune(tiny_model, DOCUMENTS, **SHORT)
    assert not left and [step for step, _ in seen] == [2, 3, 2] and not result.averaged
    assert (result.kept_step, result.steps, result.evidence.verdict) == (2, 3, "better")
    assert 0 < result.guard_seconds < result.seconds
    assert equal(weights(tiny_model), seen[0][1]) and not equal(seen[0][1], seen[1][1])
    kept = result.as_dict()
    assert "guard" not in kept and (kept["kept_step"], kept["steps"]) == (2, 3)
    assert (kept["averaged"], kept["guard_seconds"]) == (result.averaged, result.guard_seconds)


def test_the_mean_with_the_original_weights_is_kept_where_it_is_better(tiny_model, monkeypatch):
    original, seen = weights(tiny_model), {}
    measured_as(monkeypatch, [0.6, 0.3, 0.25, 0.55])
    look = guard.Guard._look
    monkeypatch.setattr(
        guard.Guard,
        "_look",
        lambda self, step, **kw: seen.setdefault(step, weights(self.model)) and look(self, step, **kw),
    )
    result = mirror_tune(tiny_model, DOCUMENTS, keep_worse=True, **SHORT)
    assert (result.kept_step, result.averaged) == (2, True)
    for name, tensor in weights(tiny_model).items():
        torch.testing.assert_close(tensor, (original[name] + seen[2][name]) / 2)


def test_a_worse_model_is_taken_back_unless_wanted(tiny_model, make_model, monkeypatch, caplog):
    original = weights(tiny_model)
    measured_as(monkeypatch, [0.6, 0.3, 0.25, 0.2])
    result = mirror_tune(tiny_model, DOCUMENTS, **SHORT)
    assert (result.kept_step, result.evidence.verdict) == (0, "worse") and equal(weights(tiny_model), original)
    assert "Tuning made the model worse on" in caplog.text and "original weights back" in caplog.text
    measured_as(monkeypatch, [0.6, 0.3, 0.25, 0.2])
    result = mirror_tune(tiny_model, DOCUMENTS, keep_worse=True, **SHORT)
    assert (result.kept_step, result.evidence.verdict) == (2, "worse") and not equal(weights(tiny_model), original)


def test_measuring_leaves_no_trace(tiny_model):
    tiny_model.train()
    tiny_model[0].eval()
    modes = [module.training for module in tiny_model.modules()]
    _, parts = hold_out(Dataset.from_dict({"text": DOCUMENTS}), RECIPES["sentence"], seed=1)
    watch = guard.Guard(tiny_model, parts, torch.no_grad)
    state = torch.get_rng_state()
    watch._measure()
    assert [module.training for module in tiny_model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_with_a_guard_is_reproducible(make_model):
    runs = []
    for _ in range(2):
        model = make_model("bert")
        result = mirror_tune(model, DOCUMENTS, learning_rate=1e-3, **SHORT)
        runs.append((weights(model), result))
    assert equal(runs[0][0], runs[1][0])
    assert runs[0][1].evidence == runs[1][1].evidence and runs[0][1].texts == 600 - 60
    assert runs[0][1].evidence.verdict != "worse" or runs[0][1].kept_step == 0


def test_when_there_is_a_guard(tiny_model):
    without = mirror_tune(tiny_model, SINGLE, batch_size=300)
    assert (without.evidence, without.guard_seconds) == (None, 0)
    assert mirror_tune(tiny_model, DOCUMENTS, batch_size=300, max_length=12, guard=False).texts == 600
    with pytest.raises(ValueError, match="The guard needs 500 texts or more"):
        mirror_tune(tiny_model, SINGLE, guard=True)


def test_after_ctrl_c(tiny_model):
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    result = mirror_tune(tiny_model, DOCUMENTS, batch_size=90, max_length=12, callbacks=[Interrupt()])
    assert result.interrupted and result.evidence is not None and result.kept_step in (0, 2, 3)


def test_ctrl_c_while_measuring(tiny_model, monkeypatch):
    measure, calls = guard.measure, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(guard, "measure", interrupted)
    result = mirror_tune(tiny_model, DOCUMENTS, **SHORT)
    assert result.interrupted and result.steps == 2 and result.evidence is not None and len(calls) == 4


def test_ctrl_c_while_the_mean_is_measured(tiny_model, monkeypatch):
    left = measured_as(monkeypatch, [0.2, 0.6, 0.4])
    measure = guard.measure

    def interrupted(*args, **kwargs):
        if not left:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(guard, "measure", interrupted)
    result = mirror_tune(tiny_model, DOCUMENTS, **SHORT)
    assert (result.kept_step, result.averaged, result.evidence.verdict) == (2, False, "better")


def test_a_run_that_diverges_is_undone(tiny_model):
    original = weights(tiny_model)
    with pytest.raises(FloatingPointError, match="Embeddings are not numbers after step 2: .*original weights back"):
        mirror_tune(tiny_model, DOCUMENTS, learning_rate=1e30, **SHORT)
    assert equal(weights(tiny_model), original)


def test_long_documents_are_known_by_their_beginning():
    long = [f"{text} {'More is said here. ' * 500}" for text in DOCUMENTS] + [
        f"{n} {DOCUMENTS[n]}" for n in range(150)
    ]
    _, parts = hold_out(Dataset.from_dict({"text": long}), RECIPES["sentence"], seed=1)
    assert len(parts.queries) >= 50 and max(map(len, parts.passages)) <= 500


def test_command_line(tiny_model, tmp_path, capsys):
    tiny_model.save_pretrained(str(tmp_path / "model"))
    (tmp_path / "texts.txt").write_text("\n".join(DOCUMENTS), encoding="utf-8")
    arguments = ["tune", "--model", str(tmp_path / "model"), "--texts", str(tmp_path / "texts.txt")]
    arguments += ["--output", str(tmp_path / "tuned"), "--set", "batch_size=270", "--set", "max_length=12"]
    assert main(arguments) == 0
    assert "on 60 texts set aside: mean reciprocal rank" in capsys.readouterr().out
    assert main([*arguments, "--no-guard", "--force"]) == 0
    assert "  guard      none" in capsys.readouterr().out


@pytest.mark.quality
def test_a_destructive_rate_is_taken_back_from_the_embedded_model():
    from sentence_transformers import SentenceTransformer

    from sentence_transformers_mirror import embedded_model_path
    from sentence_transformers_mirror.texts.docstrings import read_docstrings

    texts = [f"{docstring.first} {' '.join(docstring.rest)}" for docstring in read_docstrings() if docstring.rest]
    model = SentenceTransformer(embedded_model_path())
    original = weights(model)
    result = mirror_tune(model, texts, learning_rate=1e-2, batch_size=100, max_texts=1000, max_length=40)
    assert result.evidence.verdict == "worse" and result.kept_step == 0 and equal(weights(model), original)
