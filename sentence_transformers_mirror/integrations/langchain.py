"""LangChain: an index as a vector store, and a model as embeddings."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.search import Hit, SearchIndex
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.filters import Where
from sentence_transformers_mirror.search.hits import vectors_of

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables.config import run_in_executor
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise ImportError("LangChain is absent: pip install 'sentence-transformers-mirror[langchain]'.") from error

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Dicts = Iterable[dict[str, Any]] | None
Ids = Sequence[str | None] | None
Scored = list[tuple[Document, float]]


class MirrorEmbeddings(Embeddings):
    """A sentence-transformers model, given by itself or by its name or path, as LangChain's embeddings.

    Queries are embedded with the model's query prompt and documents with its document prompt, if it has them. Vectors
    have length 1.

    Raises:
        OSError, TypeError: If there is no such model, or it is none.

    Example:
        >>> from sentence_transformers_mirror import embedded_model_path
        >>> from sentence_transformers_mirror.integrations.langchain import MirrorEmbeddings
        >>> len(MirrorEmbeddings(embedded_model_path()).embed_query("How do I open a file?"))
        384
    """

    def __init__(self, model: SentenceTransformer | str | Path) -> None:
        self._encoder = Encoder(model)

    @property
    def model(self) -> SentenceTransformer:
        """The model, which is that of an index that these embeddings fill."""
        return self._encoder.model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Unit vectors of documents; a ValueError if the model was changed, or makes one that is no direction."""
        return self._encoder.documents(list(texts)).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of a query; a ValueError as for documents."""
        return self._encoder.queries([text])[0].tolist()


class MirrorVectorStore(VectorStore):
    """A `SearchIndex` as LangChain's vector store.

    It is made empty, with ``from_texts`` or ``from_documents``, or from a folder with ``load_local``. A folder holds
    no pickle, and a crash while it is written leaves what was there. Threads may search while another changes it.

    With `MirrorEmbeddings` the options of ``SearchIndex.search`` are options of all searches but those by a vector:
    ``mode="both"``, ``threshold="auto"``, ``rerank=...``; its ``where`` is ``filter`` here, its errors are the same.
    Other embeddings work, too, with ``mode`` "meaning" or "words".

    A document keeps its id and its metadata, a dictionary of JSON values. Ids of an index that were numbers are
    strings here.

    Args:
        embedding: `MirrorEmbeddings`, or any other embeddings of LangChain; a TypeError if it is none.
        kind, language: As for ``SearchIndex.build``.

    Example:
        >>> from sentence_transformers_mirror import embedded_model_path
        >>> from sentence_transformers_mirror.integrations.langchain import MirrorEmbeddings, MirrorVectorStore
        >>> store = MirrorVectorStore(MirrorEmbeddings(embedded_model_path()))
        >>> store.add_texts(["Open a file.", "Close a window."], [{"year": 2024}, {"year": 2025}], ids=["a", "b"])
        ['a', 'b']
        >>> store.similarity_search("how do I open a file?", k=1)
        [Document(id='a', metadata={'year': 2024}, page_content='Open a file.')]
        >>> store.as_retriever(search_kwargs={"filter": {"year": 2025}, "mode": "both"}).invoke("open a file")[0].id
        'b'
    """

    def __init__(self, embedding: Embeddings, *, kind: str = "auto", language: str | None = None) -> None:
        if not isinstance(embedding, Embeddings):
            raise TypeError(f"embedding must be embeddings, such as MirrorEmbeddings(model), not {type(embedding)}.")
        self._embedding = embedding
        self._model = embedding.model if isinstance(embedding, MirrorEmbeddings) else None
        self._options: Any = {"kind": kind, "language": language}
        self._index: SearchIndex | None = None  # there is none before there is a text
        self._changing = threading.Lock()

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    def __len__(self) -> int:
        """Number of documents."""
        return 0 if self._index is None else len(self._index)

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Dicts = None,
        *,
        ids: Ids = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, and replace those whose ids are there; gives the ids. An error leaves the store as it was.

        Args:
            texts: Strings, none of them blank.
            metadatas: A dictionary of JSON values per text.
            ids: An id per text, all different; by default, and for None, one is drawn.
            batch_size: As for ``SearchIndex.build``; other embeddings decide it themselves.

        Raises:
            TypeError, ValueError: As for ``SearchIndex.add``; or if there are other options.
        """
        _refuse(kwargs)
        texts = list(texts)
        if not texts:
            return []
        given: Any = None  # of a model of ours the index asks the vectors itself
        if self._model is None:
            given = np.array(self._embedding.embed_documents(texts), np.float32)
        names = [str(uuid.uuid4()) if item is None else item for item in ids or [None] * len(texts)]
        first: Any = {"ids": names, "metadata": metadatas, **self._options}
        with self._changing:
            if self._index is not None:
                keys = _keys(self._index, names)
                self._index.add(texts, keys, metadatas, vectors=given, batch_size=batch_size, overwrite=True)
            elif self._model is not None:
                self._index = SearchIndex.build(self._model, texts, batch_size=batch_size, **first)
            else:
                self._index = SearchIndex.from_vectors(given, texts, **first)
        return names

    def delete(self, ids: Iterable[str] | None = None, **kwargs: Any) -> bool:
        """Remove the documents of some ids, of which some may be absent; None removes all. Gives True."""
        _refuse(kwargs)
        with self._changing:
            index = self._index
            if index is not None:
                keys = list(index) if ids is None else dict.fromkeys(_keys(index, ids))
                index.remove([key for key in keys if key in index])
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of some ids, in this order; absent ones are left out."""
        index, found = self._index, []
        if index is not None:
            for key in _keys(index, ids):
                with suppress(KeyError):
                    text, metadata = index[key]
                    found.append(Document(id=str(key), page_content=text, metadata=metadata))
        return found

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The ``k`` documents nearest to a query."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """The nearest documents and their scores, higher for better: by default cosines, -1 to 1."""
        return [(_document(hit), hit.score) for hit in self._hits(query, k, **kwargs)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents nearest to the vector of a query; ``filter`` and ``threshold`` are options."""
        return [_document(hit) for hit in self._hits(np.array(embedding, np.float32), k, **kwargs)]

    def _similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        """Relevance is the cosine, and 0 where that is negative, whatever the hits are ordered by."""
        if kwargs.get("mode") == "words":
            raise ValueError("A search by words knows no relevance from 0 to 1: use similarity_search_with_score.")
        return [(_document(hit), min(max(hit.meaning or 0.0, 0.0), 1.0)) for hit in self._hits(query, k, **kwargs)]

    async def _asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Documents that are near to a query and unlike each other (Carbonell and Goldstein, 1998).

        Args:
            query, k, **kwargs: As for ``similarity_search``, but that words alone know no nearness.
            fetch_k: The nearest documents that they are chosen from; never fewer than ``k``.
            lambda_mult: The weight of nearness, 0 to 1; the rest is that of being unlike those chosen before.
        """
        if kwargs.get("mode") == "words":
            raise ValueError("A search by words knows no nearness: leave mode out, or choose 'both'.")
        return self._unlike(query, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """The same of the vector of a query; ``filter`` and ``threshold`` are options."""
        return self._unlike(np.array(embedding, np.float32), k, fetch_k, lambda_mult, **kwargs)

    def _unlike(self, query: Any, k: int, fetch_k: int, lambda_mult: float, **kwargs: Any) -> list[Document]:
        if not 0 <= lambda_mult <= 1:
            raise ValueError(f"lambda_mult is a weight from 0 to 1, not {lambda_mult}.")
        k = whole_number(k, "k", 1)
        hits = self._hits(query, max(k, fetch_k), **kwargs)
        cosines = np.array([hit.meaning for hit in hits], np.float64)
        return [_document(hits[place]) for place in marginal(cosines, vectors_of(hits), k, lambda_mult)]

    def _hits(self, query: Any, k: int, filter: Where | None = None, **options: Any) -> list[Hit]:
        index = self._index
        if index is None or not len(index):
            return []
        if isinstance(query, str) and self._model is None and options.get("mode") != "words":
            if options.get("mode") == "both" or options.get("rerank") is not None:
                raise ValueError("mode='both' and rerank need a store with MirrorEmbeddings.")
            query = np.array(self._embedding.embed_query(query), np.float32)
        return index.search(query, top_k=k, where=filter, **options)

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], embedding: Embeddings, metadatas: Dicts = None, *, ids: Ids = None, **kwargs: Any
    ) -> MirrorVectorStore:
        """A store of some texts, as for ``add_texts``; ``kwargs`` are options of `MirrorVectorStore`."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def save_local(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Save the store, but not its model, by ``SearchIndex.save``; a ValueError if it never held a document."""
        if self._index is None:
            raise ValueError("There is nothing to save: add a document first.")
        self._index.save(folder, overwrite=overwrite)

    @classmethod
    def load_local(cls, folder: str | Path, embedding: Embeddings) -> MirrorVectorStore:
        """Load a store, or an index that `SearchIndex` or ``st-mirror index`` saved; with what embedded its texts.

        Raises:
            BrokenIndexError, OSError: As for ``SearchIndex.load``.
            TypeError, ValueError: If ``embedding`` is none, or another model made the vectors.
        """
        store = cls(embedding)
        store._index = SearchIndex.load(folder, store._model)
        if store._model is None and store._index.facts()["fingerprint"] is not None:
            raise ValueError(f"A sentence-transformers model made the index in {folder}: pass MirrorEmbeddings of it.")
        return store


def marginal(cosines: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> list[int]:
    """Which candidates to take, one after the other, by their cosines with the query and their unit vectors."""
    chosen: list[int] = []
    nearest = np.full(len(cosines), -np.inf)  # the largest cosine with one that was taken
    for _ in range(min(k, len(cosines))):
        gain = weight * cosines - (1 - weight) * nearest if chosen else cosines.copy()
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return chosen


def _document(hit: Hit) -> Document:
    return Document(id=str(hit.id), page_content=hit.text, metadata=hit.metadata)


def _keys(index: SearchIndex, ids: str | Iterable[str]) -> list[int | str]:
    """Ids in the index: LangChain's are strings, and those of an index may be numbers."""
    keys: list[int | str] = [ids] if isinstance(ids, str) else list(ids)
    for place, item in enumerate(keys):
        if item not in index and isinstance(item, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,4000}", item):
            keys[place] = int(item) if int(item) in index else item
    return keys


def _refuse(options: dict[str, Any]) -> None:
    if options:
        raise TypeError(f"A MirrorVectorStore has no option {next(iter(options))!r} here: leave it out.")
