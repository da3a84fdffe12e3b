"""Queries written by a stand-in for a language model: what is kept, what is not, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from sentence_transformers_mirror import MirrorLoss, compare, embedded_model_path, generated_queries, load_corpus
from sentence_transformers_mirror.training.generated import PROMPT


def second_half(prompt: str) -> str:
    """A deterministic writer: the second half of the words of the text."""
    words = prompt.split("Text: ")[1].split()
    return " ".join(words[len(words) // 2 :])


@pytest.fixture(scope="module")
def model():
    return SentenceTransformer(embedded_model_path(), device="cpu")


def test_pairs_that_lead_back_are_kept(model, texts):
    pairs, report = generated_queries([*texts, texts[0]], second_half, model, k=1)
    assert pairs.column_names == ["query", "passage"] and report.read == len(texts)
    assert report.kept == len(pairs) and report.kept + sum(report.dropped.values()) == len(texts)
    assert all(second_half("Text: " + pair["passage"]) == pair["query"] for pair in pairs)
    # By hand: which text is the nearest to the second half of each?
    queries = [second_half("Text: " + text) for text in texts]
    nearest = model.similarity(model.encode_query(queries), model.encode_document(texts)).argmax(dim=1).tolist()
    right = [text for number, text in enumerate(texts) if nearest[number] == number and queries[number] != text]
    assert pairs["passage"][:] == right and len(right) >= 8


def test_a_larger_k_keeps_more_and_no_model_keeps_all(model, texts):
    def misleading(prompt):
        text = prompt.split("Text: ")[1]
        return f"number {texts.index(text)} " + texts[(texts.index(text) + 1) % len(texts)]

    kept = [generated_queries(texts, misleading, model, k=k)[1].kept for k in (4, 10, 16)]
    assert kept[0] < kept[2] == len(texts) and kept == sorted(kept)
    with pytest.raises(ValueError, match=r"Of 16 texts none .* \(16 not found\)"):
        generated_queries(texts, misleading, model, k=1)
    assert generated_queries(texts, misleading)[1].kept == len(texts)


def test_answers_are_cleaned_and_useless_ones_left_out(texts):
    answers = dict(
        zip(texts, ['\n "What  plays?" \nBecause.', "", " \n", "short ONE.", "Same?", "“Same?”"], strict=False)
    )
    pairs, report = generated_queries(texts, lambda prompt: answers.get(prompt.split("Text: ")[1], ""))
    assert list(pairs) == [{"query": "What plays?", "passage": texts[0]}, {"query": "Same?", "passage": texts[4]}]
    assert report.dropped == {"no query": 12, "copied": 1, "duplicate": 1} and report.read == 16


def test_prompt_and_sample(texts, tmp_path):
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return f"query {len(asked)}"

    pairs, report = generated_queries(texts, ask, max_texts=5, seed=1)
    assert asked == [PROMPT.replace("{text}", text) for text in pairs["passage"]] and report.read == len(pairs) == 5
    assert generated_queries(texts, ask, max_texts=5, seed=1)[0]["passage"][:] == pairs["passage"][:]
    assert generated_queries(texts, ask, max_texts=5, seed=2)[0]["passage"][:] != pairs["passage"][:]
    path = tmp_path / "texts.txt"
    path.write_text("It {rains}.\n", encoding="utf-8")
    asked.clear()
    generated_queries(path, ask, prompt="Ask: {text} {other}")
    assert asked == ["Ask: It {rains}. {other}"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt": "Ask."}, ValueError, r"write \{text\} where it goes"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"max_texts": 0}, ValueError, "max_texts must be at least 1"),
        ({"texts": []}, ValueError, "no text"),
        ({"generate": lambda prompt: None}, TypeError, "generate gave None and no string"),
        ({"generate": lambda prompt: " "}, ValueError, "16 no query"),
        ({"model": "no-such-model"}, OSError, "could not be loaded"),
    ],
)
def test_bad_input_is_told(texts, options, error, message):
    with pytest.raises(error, match=message):
        generated_queries(**{"texts": texts, "generate": second_half, **options})


def test_pairs_tune_a_model_and_are_asked_of_it(make_model, texts, tmp_path):
    """Two columns for `MirrorLoss`, and pairs for `compare`."""
    before, model = make_model("bert"), make_model("bert")
    many = [f"{text[:-1]} and {other}" for text in texts for other in texts[:6]]
    pairs, _ = generated_queries(many, second_half)
    args = SentenceTransformerTrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, num_train_epochs=3, learning_rate=1e-3, report_to="none",
        save_strategy="no", use_cpu=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model=model, args=args, train_dataset=pairs, loss=MirrorLoss(model)).train()
    assert not np.allclose(before.encode("a cat"), model.encode("a cat"), atol=1e-3)
    evidence = compare(before, model, list(zip(pairs["query"], pairs["passage"], strict=True)), structure="title")
    assert evidence.verdict == "better", evidence


def test_what_load_corpus_reads_is_read(texts, tmp_path):
    dataset, _ = load_corpus(texts)
    assert generated_queries(dataset, second_half)[0].to_dict() == generated_queries(texts, second_half)[0].to_dict()
