"""The store and the embeddings for LangChain; its own standard tests first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason='needs pip install "sentence-transformers-mirror[langchain]"')
standard = pytest.importorskip("langchain_tests.integration_tests", reason="needs pip install langchain-tests")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import DeterministicFakeEmbedding  # noqa: E402
from langchain_core.vectorstores import InMemoryVectorStore  # noqa: E402
from langchain_core.vectorstores.utils import maximal_marginal_relevance  # noqa: E402

from sentence_transformers_mirror import SearchIndex  # noqa: E402
from sentence_transformers_mirror.integrations.langchain import (  # noqa: E402
    MirrorEmbeddings,
    MirrorVectorStore,
    marginal,
)
from sentence_transformers_mirror.search import ConflictError  # noqa: E402

pytestmark = pytest.mark.anyio  # LangChain's asynchronous tests


@pytest.fixture
def anyio_backend():
    return "asyncio"


class TestStandard(standard.VectorStoreIntegrationTests):
    """What LangChain asks of every vector store, with embeddings that are not ours."""

    @pytest.fixture
    def vectorstore(self):
        return MirrorVectorStore(self.get_embeddings())


class TestStandardWithAModel(standard.VectorStoreIntegrationTests):
    """The same with a model."""

    @pytest.fixture
    def vectorstore(self, tiny_model):
        return MirrorVectorStore(MirrorEmbeddings(tiny_model))


class TestStandardOnDisk(standard.VectorStoreIntegrationTests):
    """The same with a store that was saved, emptied and loaded."""

    @pytest.fixture
    def vectorstore(self, tmp_path):
        store = MirrorVectorStore.from_texts(["a text"], self.get_embeddings())
        store.delete()
        store.save_local(tmp_path / "store")
        return MirrorVectorStore.load_local(tmp_path / "store", self.get_embeddings())


@pytest.fixture
def prompted(tiny_model):
    """A model that asks otherwise than it answers."""
    tiny_model.prompts = {"query": "two dogs: ", "document": "a man: "}
    return tiny_model


@pytest.fixture
def store(prompted, texts):
    metadatas = [{"number": number, "odd": bool(number % 2)} for number in range(len(texts))]
    ids = [f"id {number}" for number in range(len(texts))]
    return MirrorVectorStore.from_texts(texts, MirrorEmbeddings(prompted), metadatas, ids=ids, language="english")


def test_embeddings_keep_both_prompts(prompted, texts):
    embeddings = MirrorEmbeddings(prompted)
    for found, plain in (
        (embeddings.embed_query(texts[0]), prompted.encode_query(texts[0])),
        (embeddings.embed_documents(texts[:3])[0], prompted.encode_document(texts[0])),
    ):
        assert np.allclose(found, plain / np.linalg.norm(plain), atol=1e-5)
    assert not np.allclose(embeddings.embed_query(texts[0]), embeddings.embed_documents(texts[:1])[0], atol=1e-3)
    assert embeddings.embed_documents([]) == [] and isinstance(embeddings.embed_query("x")[0], float)


def test_it_finds_what_the_index_finds(store, prompted, texts):
    index = SearchIndex.build(prompted, texts, language="english")
    query = "Who opens a window?"
    for options in ({}, {"mode": "words"}, {"mode": "both", "weight": 0.4}, {"threshold": 0.2}):
        hits = index.search(query, top_k=5, **options)
        found = store.similarity_search_with_score(query, k=5, **options)
        assert [(document.page_content, score) for document, score in found] == [(hit.text, hit.score) for hit in hits]
        assert hits and store.similarity_search(query, k=5, **options) == [document for document, _ in found]
    by_length = {"rerank": lambda pairs: [-len(text) for _, text in pairs], "candidates": 16}
    assert store.similarity_search(query, k=1, **by_length)[0].page_content == "Yes."
    by_vector = store.similarity_search_by_vector(store.embeddings.embed_query(query), k=3)
    assert by_vector == store.similarity_search(query, k=3)


def test_the_same_as_the_store_of_langchain(texts):
    embeddings = DeterministicFakeEmbedding(size=16)
    metadatas = [{"n": number} for number in range(len(texts))]
    ids = [str(number) for number in range(len(texts))]
    ours, theirs = (
        kind.from_texts(texts, embeddings, metadatas, ids=ids) for kind in (MirrorVectorStore, InMemoryVectorStore)
    )
    for query in ("a", "b", "c"):
        for (a, x), (b, y) in zip(
            *(one.similarity_search_with_score(query, k=8) for one in (ours, theirs)), strict=True
        ):
            assert a == b and x == pytest.approx(y, abs=1e-6)
        for weight in (0, 0.3, 1):
            options = {"k": 5, "fetch_k": 12, "lambda_mult": weight}
            assert ours.max_marginal_relevance_search(query, **options) == theirs.max_marginal_relevance_search(
                query, **options
            )


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_marginal_relevance_is_that_of_langchain(weight):
    draw = np.random.default_rng(7)
    for count in (0, 1, 12):
        vectors = draw.normal(size=(count, 6))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        query = draw.normal(size=6)
        query /= np.linalg.norm(query)
        oracle = maximal_marginal_relevance(query, list(vectors), weight, k=4) if count else []
        assert marginal(vectors @ query, vectors, 4, weight) == [int(place) for place in oracle]


def test_filter(store):
    found = store.similarity_search("dogs", k=16, filter={"odd": True, "number": lambda number: number > 8})
    assert sorted(document.metadata["number"] for document in found) == [9, 11, 13, 15]
    several = store.max_marginal_relevance_search("dogs", k=16, filter={"number": [2, 4]})
    assert sorted(document.id for document in several) == ["id 2", "id 4"]
    with pytest.raises(ValueError, match="the keys are: number, odd"):
        store.similarity_search("dogs", filter={"nunber": 3})


def test_relevance_is_the_cosine_from_0_to_1(store, texts):
    plain = dict((document.id, score) for document, score in store.similarity_search_with_score("dogs", k=16))
    for options in ({}, {"mode": "both"}, {"rerank": lambda pairs: [len(text) for _, text in pairs]}):
        found = store.similarity_search_with_relevance_scores("dogs", k=16, **options)
        assert len(found) == 16
        assert all(score == pytest.approx(min(max(plain[one.id], 0), 1), abs=1e-6) for one, score in found)
    least = sorted(plain.values())[-3]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 16, "score_threshold": least - 1e-6}
    )
    assert len(retriever.invoke("dogs")) == 3
    with pytest.raises(ValueError, match="knows no relevance"):
        store.similarity_search_with_relevance_scores("dogs", mode="words")
    opposite = MirrorVectorStore(DeterministicFakeEmbedding(size=2))
    opposite.add_texts(["a", "b", "c", "d", "e", "f"])
    scores = [score for _, score in opposite.similarity_search_with_relevance_scores("q", k=6)]
    assert min(scores) == 0 and len(scores) == 6


def test_asynchronously_it_is_the_same(store):
    async def asked():
        return (
            await store.asimilarity_search("dogs", k=3, mode="both"),
            await store.asimilarity_search_with_relevance_scores("dogs", k=3),
            await store.amax_marginal_relevance_search("dogs", k=3),
            await store.as_retriever(search_type="mmr", search_kwargs={"k": 2}).ainvoke("dogs"),
            await store.aget_by_ids(["id 3"]),
        )

    assert asyncio.run(asked()) == (
        store.similarity_search("dogs", k=3, mode="both"),
        store.similarity_search_with_relevance_scores("dogs", k=3),
        store.max_marginal_relevance_search("dogs", k=3),
        store.max_marginal_relevance_search("dogs", k=2),
        store.get_by_ids(["id 3"]),
    )

    async def made():
        made = await MirrorVectorStore.afrom_documents([Document("one", id="1")], store.embeddings)
        return await made.aadd_texts(["two"], ids=["2"]), await made.adelete(["1"]), len(made)

    assert asyncio.run(made()) == (["2"], True, 1)


def test_what_is_added_under_an_id_that_is_there_replaces(store):
    document = Document("Nobody is at home.", id="id 3")
    assert store.add_documents([document, Document("New.", metadata={"odd": 1})])[0] == "id 3"
    assert store.get_by_ids(["id 3", "none", "id 0"]) == [document, *store.get_by_ids(["id 0"])]
    assert len(store) == 17
    before = store.similarity_search("dogs", k=20)
    for texts, metadatas, ids, message in (
        (["x", " "], None, ["id 0", "new"], "blank"),
        (["x", "y"], [{}, {"when": {1, 2}}], ["id 0", "new"], "would not come back"),
        (["x", "y"], None, ["id 0", "id 0"], "there twice"),
        (["x", "y"], None, ["id 0"], "1 ids for 2 texts"),
        (["x", "y"], [{}], ["id 0", "id 1"], "1 metadata for 2 texts"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            store.add_texts(texts, metadatas, ids=ids)
        assert store.similarity_search("dogs", k=20) == before
    assert store.add_texts([]) == [] and store.delete([]) and store.delete(["none", "id 1", "id 1"])
    assert len(store) == 16 and store.delete() and len(store) == 0
    assert store.similarity_search("dogs", filter={"odd": 1}) == [] == store.get_by_ids(["id 0"])
    for call in (store.add_texts, store.delete):
        with pytest.raises(TypeError, match="no option 'namespace'"):
            call(["x"], namespace="a")


def test_threads_add_to_an_empty_store(tiny_model, texts):
    store = MirrorVectorStore(MirrorEmbeddings(tiny_model))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: store.add_texts([text], ids=[text]), texts))
    assert sorted(document.id for document in store.similarity_search("dogs", k=99)) == sorted(texts)


def test_saved_and_loaded(store, prompted, make_model, tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(ValueError, match="add a document first"):
        MirrorVectorStore(store.embeddings).save_local(folder)
    store.save_local(folder)
    assert not [file for file in folder.iterdir() if file.suffix in (".pkl", ".pickle")]
    loaded = MirrorVectorStore.load_local(folder, MirrorEmbeddings(prompted))
    for options in ({}, {"mode": "both"}, {"filter": {"odd": True}}):
        assert loaded.similarity_search("dogs", **options) == store.similarity_search("dogs", **options)
    loaded.add_texts(["One more."], ids=["more"])
    loaded.save_local(folder)
    with pytest.raises(ConflictError, match="changed by another program"):
        store.save_local(folder)
    MirrorVectorStore.from_texts(["another"], store.embeddings).save_local(folder, overwrite=True)
    assert len(MirrorVectorStore.load_local(folder, MirrorEmbeddings(prompted))) == 1
    with pytest.raises(ValueError, match="built by another model"):
        MirrorVectorStore.load_local(folder, MirrorEmbeddings(make_model("roberta")))
    with pytest.raises(ValueError, match="pass MirrorEmbeddings of it"):
        MirrorVectorStore.load_local(folder, DeterministicFakeEmbedding(size=32))


def test_an_index_whose_ids_are_numbers(prompted, texts, tmp_path):
    SearchIndex.build(prompted, texts).save(tmp_path / "index")
    store = MirrorVectorStore.load_local(tmp_path / "index", MirrorEmbeddings(prompted))
    assert store.similarity_search(texts[5], k=16)[0].id in map(str, range(16))
    assert store.get_by_ids(["5", "05", "-5", "x"]) == [Document(texts[5], id="5")]
    assert store.add_texts(["Changed."], ids=["5"]) == ["5"] and len(store) == 16
    store.delete(["5", "6"])
    assert len(store) == 14


def test_embeddings_of_others_are_told_what_they_cannot(texts):
    store = MirrorVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=8))
    assert store.similarity_search("guitar", mode="words")[0].page_content == texts[1]
    for options in ({"mode": "both"}, {"rerank": lambda pairs: [0.0] * len(pairs)}):
        with pytest.raises(ValueError, match="MirrorEmbeddings"):
            store.similarity_search("guitar", **options)
    with pytest.raises(TypeError, match="such as MirrorEmbeddings"):
        MirrorVectorStore("a model")
    with pytest.raises(ValueError, match="top_k"):
        store.similarity_search("guitar", k=0)
    with pytest.raises(ValueError, match="lambda_mult"):
        store.max_marginal_relevance_search("guitar", lambda_mult=2)


def test_without_langchain_the_extra_is_named():
    program = (
        "import sys; sys.modules['langchain_core'] = None\n"
        "import sentence_transformers_mirror.integrations\n"
        "try:\n    import sentence_transformers_mirror.integrations.langchain\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'sentence-transformers-mirror[langchain]'" in done.stdout
