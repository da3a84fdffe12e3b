from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror.search import Hit, SearchIndex, ann, store
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.segments import Vectors
from sentence_transformers_mirror.search.store import BrokenIndexError

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
        manifest["checksum"] = store._checksum(manifest["index"])
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
    vectors = store.read(tmp_path).segments[0].vectors
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
    SearchIndex.build(model, TEXTS[:2]).save(folder)
    assert len(SearchIndex.load(folder, model=model)) == 2
    assert len(list(folder.iterdir())) == 5 and (folder / "notes.txt").exists()  # and a manifest and a lock


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_index(saved, monkeypatch, call):
    folder, model = saved
    index, other = SearchIndex.load(folder, model=model), SearchIndex.build(model, TEXTS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            other.save(folder)
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
    manifest_with(saved[0], lambda manifest: manifest.update(version=2))
    with pytest.raises(BrokenIndexError, match="version 2 .*upgrade"):
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
        ("the cat", None, TypeError, "list of strings"),
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
        ([None], 10, TypeError, r"query\[0\] is None"),
        ("the cat", 0, ValueError, "at least 1"),
        ("the cat", -1, ValueError, "at least 1"),
    ],
)
def test_bad_queries(tiny_model, query, top_k, error, message):
    with pytest.raises(error, match=message):
        SearchIndex.build(tiny_model, TEXTS).search(query, top_k=top_k)


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
    index._encoder = Encoder(spoiled)
    with pytest.raises(ValueError, match="'the cat'"):
        index.search(["the cat", "write the list"])


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, sentence_transformers_mirror.search.index;"
        "assert not {'torch', 'faiss', 'datasets', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
