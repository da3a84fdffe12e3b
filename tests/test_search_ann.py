"""FAISS structures: exactness, recall against brute force, filters, what `auto` chooses."""

from __future__ import annotations

import gzip

import faiss
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import embedded_model_path
from sentence_transformers_mirror.search import SearchIndex, ann
from sentence_transformers_mirror.search.choosing import wilson_bound
from sentence_transformers_mirror.search.structure import Structure, rows_without
from sentence_transformers_mirror.search.vectors import Vectors

KINDS = ["hnsw", "ivf-flat", "ivf-sq8", "ivf-pq", "PCA64,IVF64,Flat", "IVF64,PQ32x4fs,RFlat"]


def clustered(rows, dimension=64, clusters=50, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimension))
    made = centres[rng.integers(0, clusters, rows)] + 0.7 * rng.normal(size=(rows, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def recall(index, vectors, queries, where=None, allowed=None):
    """Recall@10 against numpy, over queries."""
    scores = queries @ vectors.T
    if allowed is not None:
        scores[:, ~allowed] = -2
    best = np.argsort(-scores, axis=1)[:, :10]
    found = index.search(queries, top_k=10, where=where)
    assert all(len(hits) == 10 for hits in found)
    for hits, line in zip(found, scores, strict=True):
        np.testing.assert_allclose([hit.score for hit in hits], line[[hit.id for hit in hits]], atol=1e-5)
    return np.mean([len({hit.id for hit in hits} & set(line)) / 10 for hits, line in zip(found, best, strict=True)])


@pytest.fixture(scope="session")
def sentences(data_dir):
    """20,500 real sentences, and means of the word vectors of the embedded model, which takes seconds."""
    sources = ("retrieval/stackoverflow_titles.tsv.gz", "retrieval/qnli.dev.tsv.gz")
    tables = [gzip.open(data_dir / name, "rt", encoding="utf-8").read().splitlines() for name in sources]
    texts = [row.split("\t")[1] for table in tables for row in table[1:]]
    texts = list(dict.fromkeys(texts))[:20_500]
    model = SentenceTransformer(embedded_model_path(), device="cpu")
    words = model[0].auto_model.get_input_embeddings().weight.detach().numpy()
    made = [words[ids].mean(axis=0) for ids in model.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return texts, np.stack(made)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_on_real_sentences_is_what_describe_claims(sentences, kind, monkeypatch):
    texts, vectors = sentences
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    held_out = np.sort(rng.choice(len(texts), 500, replace=False))
    kept = np.setdiff1d(np.arange(len(texts)), held_out)
    share = rng.random(len(kept))
    metadata = [{"share": "1%" if value < 0.01 else "50%" if value < 0.51 else "rest"} for value in share]
    index = SearchIndex.from_vectors(vectors[kept], [texts[row] for row in kept], metadata=metadata, kind=kind)
    claimed = index.facts()["structure"]["recall_bound"]
    assert claimed > (0.95 if kind in KINDS[:4] else 0.8) and f"{claimed:.3f}" in index.describe()
    queries = vectors[held_out]
    assert recall(index, vectors[kept], queries) >= claimed
    for scanned in (20_000, 50):  # the second sends both filters through FAISS
        monkeypatch.setattr(ann, "_SCANNED", scanned)
        for name in ("1%", "50%"):
            allowed = np.array([entry["share"] == name for entry in metadata])
            assert recall(index, vectors[kept], queries, {"share": name}, allowed) >= claimed, (scanned, name)


@pytest.mark.parametrize("kind", ["flat", *KINDS])
def test_hits_of_every_kind(kind, tmp_path):
    made = clustered(3_050)
    vectors, queries = made[:3_000], made[3_000:]
    metadata = [{"rare": row % 100 == 0, "half": row % 2} for row in range(3_000)]
    index = SearchIndex.from_vectors(vectors, map(str, range(3_000)), metadata=metadata, kind=kind)
    report = index.facts()["structure"]
    claimed = report.get("recall_bound", 1.0)
    assert ("factory" in report) == (kind != "flat")
    index.save(tmp_path)
    for one in (index, SearchIndex.load(tmp_path), SearchIndex.open(tmp_path)):
        # What is claimed, less three standard errors of so few queries.
        assert recall(one, vectors, queries) >= claimed - 3 * np.sqrt(claimed * (1.001 - claimed) / 50)
        for where, allowed in (
            ({"rare": True}, np.arange(3_000) % 100 == 0),
            ({"half": 1}, np.arange(3_000) % 2 == 1),
        ):
            assert recall(one, vectors, queries, where, allowed) > 0.9
        few = one.search(vectors[0], top_k=100, where={"rare": True})
        assert {hit.id for hit in few} == set(range(0, 3_000, 100))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_came_and_went_after_the_structure_was_made(kind):
    vectors = clustered(3_600)
    index = SearchIndex.from_vectors(vectors[:3_000], map(str, range(3_000)), kind=kind)
    index.add(map(str, range(3_000, 3_600)), vectors=vectors[3_000:])
    assert index.facts()["structure"]["rows"] == 3_000
    for row in (5, 2_999, 3_000, 3_599):
        (best,) = index.search(vectors[row], top_k=1)
        assert (best.id, best.text) == (row, str(row)) and best.score == pytest.approx(1, abs=1e-5)
        index.remove(row)
        assert row not in {hit.id for hit in index.search(vectors[row], top_k=50)}
    index.add(map(str, range(400)), vectors=clustered(400, seed=3))  # now it is made anew
    assert index.facts()["structure"]["rows"] == 4_000


@pytest.mark.parametrize("kind", ["ivf-flat", "hnsw", "ivf-sq8"])
def test_equal_texts_come_in_the_order_of_the_rows(kind):
    rng = np.random.default_rng(0)
    vectors = clustered(3_000)
    vectors = np.concatenate([vectors, vectors, vectors])[rng.permutation(9_000)]
    index = SearchIndex.from_vectors(vectors, map(str, range(9_000)), kind=kind, recall=0.99)
    for hits in index.search(clustered(50, seed=1), top_k=9):
        pairs = [(hit.score, hit.id) for hit in hits]
        assert pairs == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))
        scores = vectors[[hit.id for hit in hits]]
        assert len({vector.tobytes() for vector in scores}) == len({score for score, _ in pairs}) < 9  # and truly tie


@pytest.mark.parametrize(
    ("factory", "whole"),
    [
        ("IVF8,Flat", True),
        ("HNSW8,Flat", True),
        ("Flat", True),
        ("IVF8,SQ8", False),
        ("HNSW8,SQ8", False),
        ("PQ4x4", False),
        ("PCA4,IVF8,Flat", False),
        ("PCA4,Flat", False),
    ],
)
def test_which_structures_keep_vectors_whole(factory, whole):
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    assert Structure(index, np.array([-1]), 1, 1).whole is whole


def test_taking_no_row_from_several_parts():
    whole = clustered(10)
    assert Vectors([whole[:4], whole[4:]]).take(np.array([[-1, 3]]))[0, 1].tolist() == whole[3].tolist()


def test_a_structure_that_takes_no_selector_is_scanned(monkeypatch):
    vectors = clustered(3_000)
    index = SearchIndex.from_vectors(
        vectors, map(str, range(3_000)), metadata=[{"half": row % 2} for row in range(3_000)], kind="NSG16,Flat"
    )
    monkeypatch.setattr(ann, "_SCANNED", 0)
    allowed = np.arange(3_000) % 2 == 1
    assert recall(index, vectors, clustered(20, seed=1), {"half": 1}, allowed) == 1


def test_auto_measures():
    vectors = clustered(3_000)
    texts = list(map(str, range(3_000)))
    for options, kind in (
        ({"max_latency": 1.0}, "flat"),
        ({"max_latency": 0.0}, "ivf-flat"),
        ({"max_latency": 0.0, "max_memory": 1_000}, "ivf-sq8"),
    ):
        index = SearchIndex.from_vectors(vectors, texts, **options)
        report = index.facts()["structure"]
        assert (report["asked"], report["kind"]) == ("auto", kind)
        assert report["latency"] > 0 and f"a scan takes {1e3 * report['latency']:.2f} ms" in index.describe()
        if kind != "flat":
            assert report["sample"] == 400 and report["recall"] > report["recall_bound"] >= 0.95
            assert report["factory"].startswith(f"IVF{2_600 // 39},") and report["factory"] in index.describe()


def test_recall_asked_for_costs_effort():
    vectors = clustered(5_000)
    texts = list(map(str, range(5_000)))
    efforts = [
        SearchIndex.from_vectors(vectors, texts, kind="ivf-flat", recall=goal).facts()["structure"]["effort"]
        for goal in (0.5, 0.98)
    ]
    assert efforts[0] < efforts[1]


def test_a_recall_that_is_out_of_reach_is_told(caplog):
    noise = np.random.default_rng(0).normal(size=(2_500, 32)).astype(np.float32)
    index = SearchIndex.from_vectors(noise, map(str, range(2_500)), kind="IVF8,PQ1x4")
    bound = index.facts()["structure"]["recall_bound"]
    assert bound < 0.95 and f"reaches a recall of {bound:.3f} here and not 0.95" in caplog.text
    assert f"at least {bound:.3f}" in index.describe()


def test_below_2000_rows_every_kind_is_scanned():
    index = SearchIndex.from_vectors(clustered(1_999), map(str, range(1_999)), kind="hnsw")
    assert "below 2,000 rows" in index.describe() and "recall: 1, the search is exact" in index.describe()


@pytest.mark.parametrize("kind", ["hnws", "IVF", "IVF99999,Flat", "PQ7", ""])
def test_a_kind_that_faiss_cannot_make(kind):
    with pytest.raises(ValueError, match=r"^FAISS (makes no|cannot build)"):
        SearchIndex.from_vectors(clustered(2_500), map(str, range(2_500)), kind=kind)


def test_wilson_bound_covers():
    """In at least 95% of samples the bound is below the truth."""
    rng = np.random.default_rng(0)
    for truth in (0.9, 0.97):
        samples = rng.binomial(10, truth, size=(2_000, 400)) / 10
        below = [wilson_bound(sample.mean(), 400) <= truth for sample in samples]
        assert np.mean(below) >= 0.95
    assert 0.98 < wilson_bound(1.0, 400) < 1 and wilson_bound(0.0, 400) == pytest.approx(0, abs=1e-12)


def test_taking_rows_from_several_parts():
    whole = clustered(100)
    parts = Vectors([whole[:1], whole[1:50], whole[50:]])
    rows = np.array([99, 0, 49, 50, 1, 1])
    np.testing.assert_array_equal(parts.take(rows), whole[rows])


def test_none_of_faiss_stays_none():
    """A list that is asked alone has fewer rows than are wanted."""
    vectors = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    index = faiss.index_factory(4, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    rows = rows_without(400, np.array([3, 7]))
    assert rows.tolist() == [*(row for row in range(400) if row not in (3, 7)), 3, 7, -1]
    _, near = Structure(index, rows, 1, 1).candidates(vectors[:1], 150, None)
    assert (near[0, :100] >= 0).all() and (near[0, 100:] == -1).all()
