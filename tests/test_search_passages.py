"""Documents that are cut into passages, and a second look at hits."""

from __future__ import annotations

import json
import logging
import random
import threading

import numpy as np
import pytest
from test_search_words import sentences

from sentence_transformers_mirror import embedded_model_path, embedding
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.search import BrokenIndexError, SearchIndex, saving
from sentence_transformers_mirror.search.manifest import Manifest
from sentence_transformers_mirror.search.passages import Cutter, reads, warn_of_long

FACT = "The lighthouse of Alexandria was built by Sostratus of Cnidus."


@pytest.fixture(scope="module")
def model():
    return load_model(embedded_model_path())


@pytest.fixture(scope="module")
def texts():
    made, rng = sentences(900), random.Random(0)
    return [" ".join(rng.sample(made, count)) for count in (1, 2, 3, 5, 8, 13, 21, 40)] + ["Short.", "7"]


def tokens(model, text):
    return len(model.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def test_passages_cover_the_text_and_keep_within_their_tokens(model, texts):
    for size in (1, 7, 40, 200):
        for text, spans in zip(texts, Cutter(model, size).spans(texts), strict=True):
            assert spans == sorted(set(spans)) and all(low < high for low, high in spans)
            covered = set().union(*(range(low, high) for low, high in spans))
            assert all(text[place].isspace() for place in set(range(len(text))) - covered)
            # A word that is cut in two can have a token more in each half.
            assert all(tokens(model, text[low:high]) <= size + 2 for low, high in spans)
            for (low, high), (following, _) in zip(spans, spans[1:], strict=False):
                assert tokens(model, text[following:high]) <= size // 8 + 1 and following > low


def test_passages_end_where_sentences_do(model):
    text = "One sentence is here. Another one follows it! Is this the third? It is not the last. This is."
    (spans,) = Cutter(model, 12).spans([text])
    assert len(spans) > 2
    assert all(text[high - 1] in ".!?" for _, high in spans)


@pytest.fixture(scope="module")
def index(model, texts):
    return SearchIndex.build(model, texts, passages=40, kind="flat", metadata=[{"n": n} for n in range(len(texts))])


@pytest.mark.parametrize("mode", ["meaning", "words", "both"])
def test_hits_equal_those_of_a_plain_loop_over_passages(model, texts, index, mode):
    spans = Cutter(model, 40).spans(texts)
    cut = [(row, span) for row, mine in enumerate(spans) for span in mine]
    plain = SearchIndex.build(model, [texts[row][slice(*span)] for row, span in cut], kind="flat")
    assert len(index) == len(texts) and len(plain) == len(cut) > 2 * len(texts)
    for query in ("raise an error if the file is missing", "return the name of a module", texts[0]):
        expected = {}
        for hit in plain.search(query, top_k=len(cut), mode=mode):
            expected.setdefault(cut[hit.id][0], (hit.score, hit.text, cut[hit.id][1]))
        for top_k in (1, 3, 100):
            hits = index.search(query, top_k=top_k, mode=mode)
            assert [hit.id for hit in hits] == list(expected)[:top_k]
            for hit in hits:
                score, passage, span = expected[hit.id]
                assert abs(hit.score - score) < 1e-5 and (hit.passage, hit.span) == (passage, span)
                assert hit.text == texts[hit.id] and hit.metadata == {"n": hit.id}
                assert hit.text[slice(*hit.span)] == hit.passage
    some = index.search("raise an error", mode=mode, where={"n": [3, 5]})
    assert {hit.id for hit in some} <= {3, 5} and some


def test_a_fact_at_the_end_of_50_000_words_is_found(model, caplog):
    made = sentences(6_000)
    long, words = [], 0
    while words < 50_000:
        long.append(random.Random(words).choice(made))
        words += len(long[-1].split())
    documents = [" ".join(long) + " " + FACT, *made[:200]]
    query = "Who built the lighthouse of Alexandria?"
    with caplog.at_level(logging.WARNING):
        before = SearchIndex.build(model, documents, kind="flat")
    assert "has 5" in caplog.text or "tokens and the model reads" in caplog.text
    assert before.search(query, top_k=1)[0].id != 0
    caplog.clear()
    after = SearchIndex.build(model, documents, kind="flat", passages=64)
    assert not caplog.records
    (hit,) = after.search(query, top_k=1)
    assert hit.id == 0 and FACT in hit.passage and len(hit.passage) < 1_000
    assert hit.text == documents[0] and hit.text[hit.span[0] : hit.span[1]] == hit.passage


def test_documents_are_added_removed_updated_saved_and_rebuilt(model, texts, tmp_path):
    entries = dict(enumerate(texts))
    index = SearchIndex.build(model, texts, passages=40, kind="flat", path=tmp_path)
    rng = random.Random(0)

    def check(index):
        assert len(index) == len(entries) and list(index) == list(entries)
        assert all(index[item][0] == text and item in index for item, text in entries.items())
        fresh = SearchIndex.build(model, list(entries.values()), ids=list(entries), passages=40, kind="flat")
        for mode in ("meaning", "words"):
            found, expected = (one.search("the name of a file", top_k=6, mode=mode) for one in (index, fresh))
            np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-5)
            assert [(hit.id, hit.span) for hit in found] == [(hit.id, hit.span) for hit in expected]

    check(index)
    for step in range(4):
        new = [texts[step] + " " + texts[step + 3], "Brief."]
        entries |= dict(zip(index.add(new), new, strict=True))
        gone = rng.sample(sorted(entries), 2)
        index.remove(gone)
        entries = {item: text for item, text in entries.items() if item not in gone}
        changed = rng.choice(sorted(entries))
        index.update(changed, texts[step + 4])
        del entries[changed]
        entries[changed] = texts[step + 4]
        index.save(tmp_path)
        SearchIndex.verify(tmp_path)
        check(index)
        index = (SearchIndex.open if step % 2 else SearchIndex.load)(tmp_path, model=model)
        check(index)
    index.rebuild(model)
    check(index)
    facts = index.facts()
    assert facts["passages"]["tokens"] == 40 and facts["passages"]["rows"] > facts["texts"] == len(entries)
    assert "of at most 40 tokens" in index.describe()


@pytest.mark.parametrize("column, value", [("passage", 1), ("text", "more")])
def test_passages_that_are_not_numbered_are_damage(index, tmp_path, column, value):
    index.save(tmp_path)
    record = json.loads((tmp_path / "manifest.json").read_bytes())["index"]
    table = index._snapshot.segments[0].entries
    place = table.schema.get_field_index(column)
    changed = table.column(column).to_pylist()
    changed[0 if column == "passage" else changed.index(None)] = value
    import pyarrow as pa

    bad = table.set_column(place, table.schema.field(place), pa.array(changed, table.schema.field(place).type))
    with saving.saving(tmp_path) as save:
        record["segments"][0]["entries"] = list(save.table("entries", bad))
        save.commit(Manifest.of(record))
    for look in (SearchIndex.load, SearchIndex.verify):
        with pytest.raises(BrokenIndexError, match="entries-.*numbered"):
            look(tmp_path)


@pytest.mark.parametrize(
    "passages, error, told",
    [(0, ValueError, "at least 1"), (-3, ValueError, "at least 1"), (True, TypeError, "a whole number"),
     ("200", TypeError, "a whole number"), (10**6, ValueError, "model reads")],
)  # fmt: skip
def test_bad_passages_are_told_in_one_sentence(model, passages, error, told):
    with pytest.raises(error, match=told):
        SearchIndex.build(model, ["a"], passages=passages)


def test_vectors_do_not_go_into_an_index_of_passages(index):
    with pytest.raises(ValueError, match="pass texts without vectors"):
        index.add(["a"], vectors=np.ones((1, index._state.dimension)))


def test_no_passage_where_texts_are_not_cut(model):
    (hit,) = SearchIndex.build(model, ["a text"]).search("text")
    assert hit.passage is None and hit.span is None


def test_what_a_model_reads(model):
    assert reads(model) == model.max_seq_length - 2


def by_length(pairs):
    return [len(text) for _, text in pairs]


def test_texts_are_measured_while_no_other_thread_tokenizes(model):
    """Truncation is a setting of a tokenizer that all threads share: a search beside this would read whole texts."""
    long = ["one two three. " * 300]
    for measured in (lambda: warn_of_long(model, long), lambda: Cutter(model, 8).spans(long)):
        thread = threading.Thread(target=measured)
        with embedding.ONE_AT_A_TIME:
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
        thread.join(30)
        assert not thread.is_alive()


def test_a_second_look_orders_the_candidates(model, index, texts):
    plain = SearchIndex.build(model, sentences(100), kind="flat")
    for mode in ("meaning", "words", "both"):
        first = plain.search("return the name of the file", top_k=20, mode=mode)
        hits = plain.search("return the name of the file", top_k=3, mode=mode, rerank=by_length, candidates=20)
        longest = sorted(first, key=lambda hit: -len(hit.text))[:3]
        assert [hit.id for hit in hits] == [hit.id for hit in longest]
        assert [hit.score for hit in hits] == [len(hit.text) for hit in longest]
        assert [(hit.meaning, hit.words) for hit in hits] == [(hit.meaning, hit.words) for hit in longest]
    seen = []
    index.search("file", rerank=lambda pairs: seen.extend(pairs) or [0] * len(pairs))
    assert {text for _, text in seen} <= {t[slice(*s)] for t, m in zip(texts, Cutter(model, 40).spans(texts), strict=True) for s in m}  # fmt: skip  # noqa: E501
    several = plain.search(["file", "name"], rerank=by_length, top_k=2)
    assert several == [plain.search(one, rerank=by_length, top_k=2) for one in ("file", "name")]


def test_a_cross_encoder_by_itself_or_by_its_path(tmp_path, model):
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(model.tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    judge = CrossEncoder(str(tmp_path), device="cpu")
    plain = SearchIndex.build(model, sentences(30), kind="flat")
    hits = plain.search("a file", rerank=judge, top_k=5)
    expected = judge.predict([("a file", text) for text, _ in map(plain.__getitem__, plain)], show_progress_bar=False)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][:5], atol=1e-5)
    assert [hit.id for hit in plain.search("a file", rerank=tmp_path, top_k=5)] == [hit.id for hit in hits]


@pytest.mark.parametrize(
    "options, error, told",
    [
        ({"rerank": lambda pairs: [1.0]}, ValueError, "one finite number for each of the 3 pairs"),
        ({"rerank": lambda pairs: [float("nan")] * 3}, ValueError, "one finite number"),
        ({"rerank": lambda pairs: ["good"] * 3}, ValueError, "one finite number"),
        ({"rerank": lambda pairs: None}, ValueError, "one finite number"),
        ({"rerank": lambda pairs: [[1, 2]] * 3}, ValueError, "one finite number"),
        ({"rerank": 7}, TypeError, "must be a CrossEncoder"),
        ({"rerank": "absent"}, OSError, "could not be loaded"),
        ({"rerank": by_length, "candidates": 0}, ValueError, "at least 1"),
    ],
)
def test_a_bad_second_look_is_told_in_one_sentence(model, options, error, told):
    index = SearchIndex.build(model, ["a", "b", "c"])
    with pytest.raises(error, match=told) as caught:
        index.search("a", **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="needs a query in words"):
        index.search(np.ones(index._state.dimension), rerank=by_length)
