from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror.search import Hit, SearchIndex, ann, calibration, store
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.manifest import checksum
from sentence_transformers_mirror.search.store import BrokenIndexError, ConflictError
from sentence_transformers_mirror.search.vectors import Vectors

TEXTS = [
    "open the file and read the first line",
    "write the list to the file",
    "the cat sat on the mat",
    "read the list of names",
    "close the file",
    "the cat and the list",
]


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A saved index and the model that made it."""
    SearchIndex.build(tiny_model, TEXTS).save(tmp_path / "index")
    return tmp_path / "index", tiny_model


def manifest_with(folder, change, sign=True):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    if sign:
        manifest["checksum"] = checksum(manifest["index"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_hits_equal_brute_force(tiny_model):
    tiny_model.prompts = {"query": "read the ", "document": "write the "}
    queries = ["read a file", "the cat", "names"]
    documents = tiny_model.encode(TEXTS, prompt_name="document", normalize_embeddings=True)
    scores = tiny_model.encode(queries, prompt_name="query", normalize_embeddings=True) @ documents.T
    found = SearchIndex.build(tiny_model, TEXTS).search(queries, top_k=4)
    for hits, expected in zip(found, scores, strict=True):
        best = np.argsort(-expected, kind="stable")[:4]
        assert [hit.id for hit in hits] == best.tolist()
        assert [hit.text for hit in hits] == [TEXTS[row] for row in best]
        np.testing.assert_allclose([hit.score for hit in hits], expected[best], atol=1e-5)


def test_a_model_that_does_not_know_its_width_is_told_by_its_vectors(tiny_model, monkeypatch):
    index = SearchIndex.build(tiny_model, TEXTS)
    for name in ("queries", "documents"):
        monkeypatch.setattr(Encoder, name, lambda self, texts, *rest: np.ones((len(texts), 5), np.float32))
    for ask in (lambda: index.search("the cat"), lambda: index.add(["another"])):
        with pytest.raises(ValueError, match="makes vectors of 5 dimensions and the index has 32"):
            ask()
    assert len(index) == len(TEXTS)


def test_a_search_that_fails_changes_nothing():
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors, [f"text{number}" for number in range(100)])
    assert index.search(vectors[0])
    for query in (np.zeros(3, np.float32), "words without a model"):
        with pytest.raises(ValueError):
            index.search(query, threshold="auto")
        assert index.facts()["calibration"] is None


@pytest.mark.parametrize("how", [{}, {"mode": "words"}, {"mode": "both"}])
def test_a_threshold_that_nothing_reaches_is_told(tiny_model, caplog, how):
    index = SearchIndex.build(tiny_model, TEXTS)
    with caplog.at_level("INFO"):
        assert index.search("read the file", threshold=50 if how == {"mode": "words"} else 1, **how) == []
    assert "No text scores" in caplog.text


@pytest.mark.parametrize("queries", [1, 40])  # FAISS takes another way, through BLAS, from 20 queries on
@pytest.mark.parametrize("top_k", [1, 7, 60, 300])
def test_exact_with_ties_in_the_order_of_the_rows(queries, top_k):
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(40, 24)).astype(np.float32)
    vectors = distinct[rng.integers(0, 40, size=300)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[rng.integers(0, 300, size=queries)]
    parts = Vectors([vectors[:7], vectors[7:200], vectors[200:]])
    for query, scores, rows in zip(asked, *ann.search(parts, None, asked, top_k), strict=True):
        expected = (vectors * query).sum(axis=1)
        best = np.argsort(-expected, kind="stable")[:top_k]
        assert rows.tolist() == best.tolist()
        np.testing.assert_allclose(scores, expected[best], atol=1e-6)


def test_equal_texts_come_in_order(tiny_model):
    hits = SearchIndex.build(tiny_model, ["the cat", *["close the file"] * 50]).search("close the file", top_k=5)
    assert [hit.id for hit in hits] == [1, 2, 3, 4, 5]
    assert len({hit.score for hit in hits}) == 1 and hits[0].score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ids", [None, [7, "7", -1, "b", 2**70, ""], list(np.arange(6) * 3)])
def test_save_and_load_change_nothing(tiny_model, tmp_path, ids):
    index = SearchIndex.build(tiny_model, (text for text in TEXTS), ids=ids)
    index.save(tmp_path / "a" / "index")
    loaded = SearchIndex.load(tmp_path / "a" / "index", model=tiny_model)
    assert len(loaded) == len(index) == len(TEXTS)
    assert loaded.search(["the cat", "names"]) == index.search(["the cat", "names"])
    hits = {hit.text: hit for hit in loaded.search("the cat", top_k=6)}
    assert [hits[text].id for text in TEXTS] == (list(range(6)) if ids is None else ids)
    assert all(
        isinstance(hit, Hit) and type(hit.id) in (int, str) and type(hit.score) is float for hit in hits.values()
    )


def test_a_query_does_not_depend_on_its_company(tiny_model):
    index = SearchIndex.build(tiny_model, TEXTS)
    assert index.search(["the cat"] * 2) == [index.search("the cat")] * 2
    assert index.search([]) == []


def test_more_hits_than_texts_gives_all(tiny_model):
    hits = SearchIndex.build(tiny_model, TEXTS).search("the cat", top_k=1000)
    assert sorted(hit.id for hit in hits) == list(range(6))


def test_model_by_path_and_texts_from_datasets(tiny_model, tmp_path):
    tiny_model.save_pretrained(str(tmp_path / "model"))
    dataset = Dataset.from_dict({"text": TEXTS})
    expected = SearchIndex.build(tiny_model, TEXTS).search("the cat")
    assert SearchIndex.build(tmp_path / "model", dataset).search("the cat") == expected
    assert SearchIndex.build(str(tmp_path / "model"), dataset["text"]).search("the cat") == expected
    with pytest.raises(ValueError, match=r"no column 'text' but \['body'\]"):
        SearchIndex.build(tiny_model, Dataset.from_dict({"body": TEXTS}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_give_unit_vectors(tiny_model, tmp_path, dtype):
    index = SearchIndex.build(tiny_model.to(dtype), TEXTS)
    index.save(tmp_path)
    vectors = store.read(tmp_path).snapshot.segments[0].vectors
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert SearchIndex.load(tmp_path, model=tiny_model).search("the cat") == index.search("the cat")


def test_the_same_model_from_its_folder_is_recognised(saved, tmp_path):
    folder, model = saved
    model.save_pretrained(str(tmp_path / "model"))
    assert SearchIndex.load(folder, model=tmp_path / "model").search("the cat", top_k=1)


def test_another_model_is_refused(saved):
    folder, model = saved
    with torch.no_grad():
        next(model.parameters())[5, 3] += 1e-3
    with pytest.raises(ValueError, match="built by another model"):
        SearchIndex.load(folder, model=model)


@pytest.mark.parametrize("setting", ["prompts", "max_seq_length", "truncate_dim", "pooling"])
def test_other_settings_are_another_model(saved, setting):
    folder, model = saved
    if setting == "prompts":
        model.prompts = {"query": "find "}
    elif setting == "max_seq_length":
        model.max_seq_length = 5
    elif setting == "truncate_dim":
        model.truncate_dim = 8
    else:
        model[1].include_prompt = False
    with pytest.raises(ValueError, match="built by another model"):
        SearchIndex.load(folder, model=model)


def test_without_a_model_it_loads_but_does_not_search(saved):
    index = SearchIndex.load(saved[0])
    assert len(index) == 6
    with pytest.raises(ValueError, match="pass SearchIndex.load"):
        index.search("the cat")


def test_saving_over_an_index_leaves_only_the_new_one(saved, tmp_path):
    folder, model = saved
    (folder / "notes.txt").write_text("mine")
    other = SearchIndex.build(model, TEXTS[:2])
    with pytest.raises(ConflictError, match="overwrite=True"):
        other.save(folder)
    with pytest.raises(ConflictError, match="overwrite=True"):
        SearchIndex.build(model, TEXTS[:2], path=folder)
    assert len(SearchIndex.load(folder, model=model)) == 6
    other.save(folder, overwrite=True)
    other.save(folder)  # its own
    assert len(SearchIndex.load(folder, model=model)) == 2
    assert (
        len(list(folder.iterdir())) == 6 and (folder / "notes.txt").exists()
    )  # vectors, entries, words, manifest, lock


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_index(saved, monkeypatch, call):
    folder, model = saved
    index, other = SearchIndex.load(folder, model=model), SearchIndex.build(model, TEXTS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            other.save(folder, overwrite=True)
    assert SearchIndex.load(folder, model=model).search("the cat") == index.search("the cat")


def test_a_foreign_manifest_is_not_overwritten(tiny_model, tmp_path):
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a browser extension"}')
    with pytest.raises(BrokenIndexError, match="manifest.json belongs to something else"):
        SearchIndex.build(tiny_model, TEXTS).save(folder)
    assert [file.name for file in folder.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("kind", ["vectors-*", "entries-*"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_file_is_named(saved, kind, damage):
    (file,) = saved[0].glob(kind)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(BrokenIndexError, match=f"{file.name} is .*build the index again"):
        SearchIndex.load(saved[0])


def test_a_folder_that_is_no_index(tmp_path):
    for path in (tmp_path, tmp_path / "absent", str(tmp_path)):
        with pytest.raises(BrokenIndexError, match="holds no index"):
            SearchIndex.load(path)
    (tmp_path / "manifest.json").write_bytes(b"\xff not json")
    with pytest.raises(BrokenIndexError, match="not valid JSON"):
        SearchIndex.load(tmp_path)


def test_a_newer_format_is_refused(saved):
    manifest_with(saved[0], lambda manifest: manifest.update(version=3))
    with pytest.raises(BrokenIndexError, match="version 3 .*upgrade"):
        SearchIndex.load(saved[0])


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "..", "vectors.npy"])
def test_no_name_points_outside_the_folder(saved, name):
    manifest_with(saved[0], lambda manifest: manifest["index"]["segments"][0]["vectors"].__setitem__(0, name))
    with pytest.raises(BrokenIndexError, match="no file of an index"):
        SearchIndex.load(saved[0])


@pytest.mark.parametrize(
    ("texts", "ids", "error", "message"),
    [
        ([], None, ValueError, "nothing to index"),
        ("the cat", None, FileNotFoundError, "strings themselves go into a list"),
        (None, None, TypeError, "list of strings"),
        (["the cat", None], None, TypeError, r"texts\[1\] is None"),
        (["the cat", 3], None, TypeError, r"texts\[1\] is 3"),
        (["the cat", " \n"], None, ValueError, r"texts\[1\] is blank"),
        (["the cat", "names"], [1], ValueError, "1 ids for 2 texts"),
        (["the cat", "names"], ["a", "a"], ValueError, "'a' is there twice"),
        (["the cat", "names"], [1, 1.5], TypeError, "1.5 is neither int nor str"),
        (["the cat", "names"], [1, True], TypeError, "True is neither int nor str"),
    ],
)
def test_bad_texts_and_ids(tiny_model, texts, ids, error, message):
    with pytest.raises(error, match=message):
        SearchIndex.build(tiny_model, texts, ids=ids)


def test_bad_models():
    with pytest.raises(TypeError, match="must be a SentenceTransformer"):
        SearchIndex.build(torch.nn.Linear(2, 2), TEXTS)


@pytest.mark.parametrize(
    ("query", "top_k", "error", "message"),
    [
        ("", 10, ValueError, "blank"),
        (["the cat", "  "], 10, ValueError, r"query\[1\] is blank"),
        (None, 10, TypeError, "list of strings"),
        (pd.DataFrame({"a": ["the cat"]}), 10, TypeError, "list of strings, not one DataFrame"),
        ([None], 10, TypeError, r"query\[0\] is None"),
        ("the cat", 0, ValueError, "at least 1"),
        ("the cat", -1, ValueError, "at least 1"),
    ],
)
def test_bad_queries(tiny_model, query, top_k, error, message):
    with pytest.raises(error, match=message):
        SearchIndex.build(tiny_model, TEXTS).search(query, top_k=top_k)


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        (pd.DataFrame({"a": ["the cat"]}), TypeError, "queries must be a string or a list of strings, not one Data"),
        ({"a": "the cat"}, TypeError, "queries must be a string"),
        (["the cat", None], TypeError, r"queries\[1\] is None"),
        (" ", ValueError, "queries is blank"),
        ([], ValueError, "There are no queries"),
    ],
)
def test_bad_queries_of_a_calibration(tiny_model, queries, error, message):
    with pytest.raises(error, match=message):
        SearchIndex.build(tiny_model, TEXTS).calibrate(queries=queries)


def test_a_long_query_is_truncated(tiny_model):
    assert len(SearchIndex.build(tiny_model, TEXTS).search("the cat " * 125_000)) == 6


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_zero_and_nan_vectors_are_refused_with_their_text(tiny_model, value):
    class Spoil(torch.nn.Module):
        """Spoils the second row of a batch; encode puts the longest text first."""

        def forward(self, features):
            features["sentence_embedding"] = features["sentence_embedding"].index_fill(0, torch.tensor([1]), value)
            return features

    spoiled = SentenceTransformer(modules=[*tiny_model, Spoil()], device="cpu")
    with pytest.raises(ValueError, match="1 of 3 texts .*'write the list'"):
        SearchIndex.build(spoiled, ["the cat", "write the list", "open the file and read the first line"])
    index = SearchIndex.build(tiny_model, TEXTS)
    index._state = dataclasses.replace(index._state, encoder=Encoder(spoiled))
    with pytest.raises(ValueError, match="'the cat'"):
        index.search(["the cat", "write the list"])


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, sentence_transformers_mirror.search.index;"
        "assert not {'torch', 'faiss', 'datasets', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_threshold_and_metadata(tiny_model, tmp_path):
    metadata = [{"topic": "files", "year": 2020 + row} if row % 2 == 0 else None for row in range(6)]
    index = SearchIndex.build(tiny_model, TEXTS, ids=list("abcdef"), metadata=metadata)
    index.save(tmp_path)
    for one in (index, SearchIndex.load(tmp_path, tiny_model), SearchIndex.open(tmp_path, tiny_model)):
        hits = one.search("the cat", where={"topic": "files"})
        assert {hit.id: hit.metadata for hit in hits} == {"a": metadata[0], "c": metadata[2], "e": metadata[4]}
        assert {hit.id for hit in one.search("the cat", where={"year": lambda year: year > 2021})} == {"c", "e"}
        assert {hit.id for hit in one.search("the cat", where={"topic": "files", "year": [2020, 2024]})} == {"a", "e"}
        assert one.search("the cat", where={"topic": "none"}) == []
        assert len(one.search("the cat", where={})) == 6
        everything = one.search("the cat")
        assert everything[1].metadata == ({} if everything[1].id in "bdf" else everything[1].metadata)
        least = everything[2].score
        assert one.search("the cat", threshold=least) == everything[:3]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("topic", TypeError, "dictionary of metadata keys"),
        ({"tpic": "files"}, ValueError, "'tpic' in its metadata; the keys are: topic, year"),
        ({"topic": {"a": 1}}, TypeError, "strings, numbers"),
        ({"topic": [b"files"]}, TypeError, "strings, numbers"),
        ({1: "files"}, TypeError, "dictionary of metadata keys"),
    ],
)
def test_bad_filters(tiny_model, where, error, message):
    index = SearchIndex.build(tiny_model, TEXTS, metadata=[{"topic": "files", "year": 2020}] * 6)
    with pytest.raises(error, match=message):
        index.search("the cat", where=where)


@pytest.mark.parametrize(
    "metadata", [[{"a": float("nan")}], [{"a": (1, 2)}], [{1: 2}], [{"a": b"x"}], ["topic"], [[("a", 1)]]]
)
def test_metadata_that_would_not_come_back_is_refused(tiny_model, metadata):
    with pytest.raises(TypeError, match="would not come back as it is: pass a dictionary"):
        SearchIndex.build(tiny_model, ["the cat"], metadata=metadata)


def test_metadata_of_mixed_types_comes_back(tiny_model):
    metadata = [{"a": 1}, {"a": "1"}, {"a": [1, {"b": None}]}, {"a": True}, {"b": 1.5}, None]
    index = SearchIndex.build(tiny_model, TEXTS, metadata=metadata)
    assert [index[row][1] for row in range(6)] == [entry or {} for entry in metadata]
    assert [hit.id for hit in index.search("the cat", where={"a": 1})] in ([0, 2], [2, 0])
    assert [hit.id for hit in index.search("the cat", where={"a": True})] == [3]


@pytest.mark.parametrize("top_k", [2.0, "3", None, True])
def test_top_k_is_a_number(tiny_model, top_k):
    with pytest.raises(TypeError, match="top_k is the number of hits"):
        SearchIndex.build(tiny_model, TEXTS).search("the cat", top_k=top_k)


@pytest.mark.parametrize("threshold", ["high", 2, -1.5, float("nan"), True])
def test_a_threshold_is_a_cosine(tiny_model, threshold):
    with pytest.raises(ValueError, match="threshold is a cosine similarity"):
        SearchIndex.build(tiny_model, TEXTS).search("the cat", threshold=threshold)


def test_calibration_gives_the_rate_it_promises():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3_000, 16)).astype(np.float32)
    texts = [f"text {row % 2_900}" for row in range(3_000)]
    index = SearchIndex.from_vectors(vectors, texts)
    assert "not calibrated" in index.describe()
    for rate in (0.1, 0.001):
        threshold = index.calibrate(rate)
        made = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = (made[:1_500] * made[1_500:]).sum(axis=1), (made[:1_500] * np.roll(made[1_500:], 7, 0)).sum(axis=1)
        exceeded = np.mean(np.concatenate(scores) > threshold)
        assert abs(exceeded - rate) < 4 * np.sqrt(rate / 3_000)
    assert f"{threshold:.3f} is exceeded by 0.001" in index.describe()
    hits = index.search(vectors[5], top_k=3_000, threshold="auto")
    assert 1 <= len(hits) < 40 and all(hit.score >= threshold for hit in hits)
    with pytest.raises(ValueError, match="ask for at least"):
        index.calibrate(1e-7)
    for rate in (0, 1, -0.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            index.calibrate(rate)


def test_texts_that_share_a_telling_word_are_no_strangers():
    texts = ["the blue house", "the red house", "the green tree", *(f"the thing {n} of them" for n in range(40))]
    related = calibration._related(["a House of the sea", "the", "!"], texts, None)
    assert related[0, :3].tolist() == [True, True, False] and not related[1:].any()
    assert not calibration._related(["\N{WINKING FACE}"], ["!", "?"], None).any()
    assert calibration._related([], texts, None).shape == (0, 43)


def test_a_calibration_is_saved(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors, map(str, range(300)))
    threshold = index.calibrate(0.01)
    index.save(tmp_path)
    assert SearchIndex.load(tmp_path).facts()["calibration"]["threshold"] == threshold
    hits = SearchIndex.load(tmp_path).search(vectors[0], top_k=300, threshold="auto")
    assert all(hit.score >= threshold for hit in hits) and len(hits) < 300


def test_add_remove_update_with_a_model(tiny_model, tmp_path):
    index = SearchIndex.build(tiny_model, TEXTS)
    assert index.add(["a dog", "a bird"]) == [6, 7]
    assert index.add(["a fish"], ids=["fish"], metadata=[{"wet": True}]) == ["fish"]
    index.remove([0, "fish"])
    index.update(1, "the dog and the bird")
    assert len(index) == 7 and list(index) == [2, 3, 4, 5, 6, 7, 1] and 0 not in index and True not in index
    (best,) = index.search("the dog and the bird", top_k=1)
    assert (best.id, best.text) == (1, "the dog and the bird") and best.score == pytest.approx(1, abs=1e-5)
    index.save(tmp_path)
    assert SearchIndex.load(tmp_path, tiny_model).search("a dog") == index.search("a dog")
    index.update(2, TEXTS[2], {"old": True})
    assert index.add(["a cow", "a hen"], ids=["cow", 2], overwrite=True) == ["cow", 2]
    assert len(index) == 8 and index[2] == ("a hen", {}) and index.search("a hen", top_k=1)[0].id == 2
    index.remove(list(index))
    assert len(index) == 0 and index.search("a dog") == [] and index.search(["a dog", "a bird"]) == [[], []]
    index.save(tmp_path)
    empty = SearchIndex.load(tmp_path, tiny_model)
    assert empty.add(["again"]) == [8] and empty.search("again", top_k=3)[0].text == "again"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda index: index.add(["x"], ids=[0]), ValueError, "The id 0 is in the index already"),
        (lambda index: index.add(["x", "y"], ids=["a", "a"]), ValueError, "'a' is there twice"),
        (lambda index: index.add(["x", "y"], ids=[0, 0], overwrite=True), ValueError, "0 is there twice"),
        (lambda index: index.add(["x", " "]), ValueError, "blank"),
        (lambda index: index.remove("7"), ValueError, "The id '7' is not in the index"),
        (lambda index: index.remove([1, 1]), ValueError, "given twice"),
        (lambda index: index.remove([1, None]), TypeError, "neither int nor str"),
        (lambda index: index.update([0, 1], ["x"]), ValueError, "1 texts"),
        (lambda index: index.update([0], ["x", "y"]), ValueError, "1 ids for at least 2 texts"),
        (lambda index: index.update(99, "x"), ValueError, "not in the index"),
        (lambda index: index.update([0, 0], ["x", "y"]), ValueError, "given twice"),
        (lambda index: index.add(["x"], vectors=np.ones((1, 3), np.float32)), ValueError, "must have the shape"),
        (lambda index: index.add(["x"], vectors=np.ones((1, 32), np.float32)), ValueError, "not of this model"),
    ],
)
def test_a_bad_change_changes_nothing(tiny_model, change, error, message):
    index = SearchIndex.build(tiny_model, TEXTS)
    before = index.search("the cat"), list(index)
    with pytest.raises(error, match=message):
        change(index)
    assert (index.search("the cat"), list(index)) == before


def test_a_model_tuned_in_place_is_refused_until_it_is_rebuilt(tiny_model):
    index = SearchIndex.build(tiny_model, TEXTS, ids=list("abcdef"), metadata=[{"n": row} for row in range(6)])
    index.search("the cat")
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=1.0)
    tiny_model(tiny_model.preprocess(["the cat"]))["sentence_embedding"].sum().backward()
    optimizer.step()
    for use in (lambda: index.search("the cat"), lambda: index.add(["a dog"])):
        with pytest.raises(ValueError, match=r"changed since it built this index .*index\.rebuild\(model\)"):
            use()
    index.rebuild(tiny_model)
    assert index.search("the cat") == SearchIndex.build(
        tiny_model, TEXTS, ids=list("abcdef"), metadata=[{"n": row} for row in range(6)]
    ).search("the cat")
    tiny_model.max_seq_length = 4
    with pytest.raises(ValueError, match="changed since"):
        index.search("the cat")


def test_a_model_that_only_moved_is_not_refused(tiny_model):
    index = SearchIndex.build(tiny_model, TEXTS)
    before = index.search("the cat")
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.data = parameter.data.clone()
    assert index.search("the cat") == before


def test_a_model_that_is_gone(saved, tmp_path):
    for load in (SearchIndex.load, SearchIndex.open):
        with pytest.raises(OSError, match=r"The model '.*absent' could not be loaded") as caught:
            load(saved[0], model=tmp_path / "absent")
        assert "\n" not in str(caught.value)


def test_matryoshka(tiny_model, tmp_path):
    index = SearchIndex.build(tiny_model, TEXTS, dimensions=8)
    index.save(tmp_path)
    vectors = store.read(tmp_path).snapshot.segments[0].vectors
    expected = tiny_model.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert SearchIndex.load(tmp_path, tiny_model).search("the cat") == index.search("the cat")
    for dimensions in (0, -1, 33):
        with pytest.raises(ValueError, match="between 1 and the 32"):
            SearchIndex.build(tiny_model, TEXTS, dimensions=dimensions)


def test_built_on_disk_is_as_built_in_memory(tiny_model, tmp_path, monkeypatch):
    from sentence_transformers_mirror.search import index as module

    monkeypatch.setattr(module, "WINDOW", 4)
    metadata = [{"n": row} for row in range(6)]
    in_memory = SearchIndex.build(tiny_model, iter(TEXTS), ids=iter("abcdef"), metadata=iter(metadata))
    on_disk = SearchIndex.build(tiny_model, TEXTS, ids="abcdef", metadata=metadata, path=tmp_path / "index")
    assert on_disk.search("the cat") == in_memory.search("the cat")
    assert SearchIndex.load(tmp_path / "index", tiny_model).search("the cat") == in_memory.search("the cat")
    SearchIndex.verify(tmp_path / "index")
    before = sorted(file.name for file in (tmp_path / "index").iterdir())
    for texts, ids, message in (
        ([*TEXTS[:5], " "], None, "blank"),
        (TEXTS, "abcdea", "there twice"),
        (TEXTS, "abcde", "ids"),
    ):
        with pytest.raises(ValueError, match=message):
            SearchIndex.build(tiny_model, texts, ids=ids, path=tmp_path / "index", overwrite=True)
    assert sorted(file.name for file in (tmp_path / "index").iterdir()) == before
    assert on_disk.add(["more"]) == [0] and "more" == on_disk[0][0]


def test_texts_of_any_length_are_embedded_as_alone(tiny_model):
    texts = ["a", "the cat " * 40, "b", "the list", "the list", "a " * 3_000]
    index = SearchIndex.build(tiny_model, texts)
    vectors = index._snapshot.vectors.take(np.arange(6))
    np.testing.assert_allclose(vectors, tiny_model.encode(texts, normalize_embeddings=True), atol=1e-5)


def test_from_vectors_with_the_model_that_made_them(tiny_model, tmp_path):
    vectors = tiny_model.encode(TEXTS)
    index = SearchIndex.from_vectors(vectors, TEXTS, model=tiny_model)
    assert [hit.id for hit in index.search("the cat")] == [
        hit.id for hit in SearchIndex.build(tiny_model, TEXTS).search("the cat")
    ]
    with pytest.raises(ValueError, match="not of this model"):
        SearchIndex.from_vectors(vectors[::-1], TEXTS, model=tiny_model)
    bare = SearchIndex.from_vectors(vectors, TEXTS)
    with pytest.raises(ValueError, match="without a model"):
        bare.search("the cat")
    with pytest.raises(ValueError, match="without a model"):
        bare.add(["the cat"])
    assert bare.search(vectors[2])[0].id == 2 and bare.search(vectors[2:4])[1][0].id == 3
    bare.save(tmp_path)
    assert len(SearchIndex.load(tmp_path, tiny_model).search("the cat", top_k=3)) == 3
    with torch.no_grad():
        next(tiny_model.parameters()).mul_(-3)
    with pytest.raises(ValueError, match="not of this model"):
        SearchIndex.load(tmp_path, tiny_model)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 3)), "2 vectors for at least 6 texts"),
        (np.ones((7, 3)), "7 vectors for 6 texts"),
        (np.ones(6), "shape"),
        (np.zeros((6, 3)), "zero or non-finite vector.*'open the file"),
        (np.full((6, 3), np.nan), "zero or non-finite"),
        (np.ones((0, 3)), "nothing to index"),
    ],
)
def test_bad_vectors(vectors, message):
    with pytest.raises(ValueError, match=message):
        SearchIndex.from_vectors(vectors, TEXTS)


@pytest.mark.parametrize(
    "query", [np.ones(5), np.ones((2, 5)), np.ones((1, 2, 3)), np.zeros(3), np.array([1, np.inf, 0])]
)
def test_bad_query_vectors(query):
    index = SearchIndex.from_vectors(np.ones((6, 3)), TEXTS)
    with pytest.raises(ValueError, match="dimensions of the index|zero or non-finite"):
        index.search(query)


def test_hits_are_read_when_they_are_looked_at(tiny_model, monkeypatch):
    import copy
    import pickle

    from sentence_transformers_mirror.search.segments import Segment

    index = SearchIndex.build(tiny_model, TEXTS)
    reads = []
    for name in ("id", "text", "metadata"):
        read = getattr(Segment, name)
        monkeypatch.setattr(
            Segment, name, lambda self, row, name=name, read=read: reads.append(name) or read(self, row)
        )
    hits = index.search(["the cat"] * 3)
    assert not reads and hits[0][0].score > hits[0][1].score
    assert hits[0][0].text in TEXTS and hits[0][0].text == hits[0][0].text and reads == ["text"]
    assert hits[0][0].id in range(6) and reads == ["text", "id"]
    index.remove(list(range(6)))
    assert hits[1][0].text == hits[0][0].text  # as the index was
    for made in (pickle.loads(pickle.dumps(hits[2][0])), copy.deepcopy(hits[2][0])):
        assert made == hits[0][0] and repr(made).startswith("Hit(id=")
    with pytest.raises(AttributeError):
        hits[0][0].colour  # noqa: B018


def test_files_as_texts(tiny_model, tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffthe cat\n\n  the list \n", encoding="utf-8")
    (tmp_path / "a.csv").write_text("text,n\nthe cat,1\nthe list,2\n")
    (tmp_path / "a.jsonl").write_text('{"text": "the cat"}\n{"text": "the list"}\n')
    for name in ("a.txt", "a.csv", "a.jsonl"):
        index = SearchIndex.build(tiny_model, tmp_path / name)
        assert [index[item][0] for item in index] == ["the cat", "the list"]
    for name, content, message in (
        ("b.txt", b"\xff\xfe", "Line 1 of .* is not UTF-8"),
        ("b.csv", b"n,m\n1,2\n", "no column 'text'"),
        ("b.txt.gz", b"no gzip", "cannot be read as gzip"),
        ("b.jsonl", b"{{{", "Line 1 of .*cannot be read as JSON"),
        ("c.txt", b"\n\n", "nothing to index"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            SearchIndex.build(tiny_model, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        SearchIndex.build(tiny_model, tmp_path / "absent.txt")


def test_describe(tiny_model):
    words = SearchIndex.build(tiny_model, TEXTS).describe()
    assert "6 texts, 32 dimensions" in words and "kind: flat (asked for auto): a scan takes" in words
    assert "recall: 1, the search is exact" in words


def test_threads_may_share_a_model(tiny_model):
    from concurrent.futures import ThreadPoolExecutor

    index = SearchIndex.build(tiny_model, TEXTS)
    expected = [index.search(text) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(index.search, TEXTS * 10)) == expected * 10


def test_lone_surrogates_are_refused_with_a_sentence(tiny_model):
    for use in (lambda text: SearchIndex.build(tiny_model, [text]), SearchIndex.build(tiny_model, TEXTS).search):
        with pytest.raises(ValueError, match="lone surrogate"):
            use("half \ud800")
