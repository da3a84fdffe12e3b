"""The API of search: build an index over texts, ask it, keep it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.search import store
from sentence_transformers_mirror.search.ann import ExactIndex

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Hit:
    """A text that was found.

    Args:
        id: As it was given to ``SearchIndex.build``, or the position of the text.
        score: Cosine similarity to the query, -1 to 1.
        text: The text.
    """

    id: int | str
    score: float
    text: str


class SearchIndex:
    """Exact search over texts by the cosine similarity of their embeddings. Made by ``build`` or ``load``.

    Changing the model afterwards, as ``mirror_tune`` does in place, makes an index worthless: its vectors are of the
    old model and the queries would be of the new one. Build it again.
    """

    def __init__(self, contents: store.Contents, model: SentenceTransformer | None) -> None:
        self._contents = contents
        self._model = model
        self._ann = ExactIndex(contents.vectors)

    @classmethod
    def build(
        cls,
        model: SentenceTransformer | str | Path,
        texts: Iterable[str] | Dataset,
        *,
        ids: Iterable[int | str] | None = None,
        batch_size: int = 32,
        show_progress: bool | None = None,
    ) -> SearchIndex:
        """Embed texts, with the model's document prompt if it has one, and index them.

        Args:
            model: A model, or its name or path.
            texts: Strings, none of them blank; or a ``datasets.Dataset`` with a column ``text``.
            ids: An int or str per text, all different; by default the position of the text, from 0.
            batch_size: Texts embedded at a time.
            show_progress: Whether to show a progress bar; by default if standard error is a terminal.

        Returns:
            The index. It keeps the model to embed queries.

        Raises:
            TypeError: If a text is no string, an id neither int nor str, or ``model`` no model.
            ValueError: If there are no texts, one is blank or has a zero or non-finite vector, or the ids are not
                one per text and all different.
        """
        texts = _checked_texts(texts, "texts")
        if not texts:
            raise ValueError("There is nothing to index: pass at least one text.")
        ids = range(len(texts)) if ids is None else _checked_ids(ids, len(texts))
        model = _as_model(model)
        vectors = model.encode_document(
            texts,
            batch_size=batch_size,
            show_progress_bar=sys.stderr.isatty() if show_progress is None else show_progress,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        vectors = _unit(vectors, texts)
        return cls(store.Contents(vectors, pa.array(texts, pa.large_string()), ids, _fingerprint(model)), model)

    @overload
    def search(self, query: str, top_k: int = 10) -> list[Hit]: ...

    @overload
    def search(self, query: Sequence[str], top_k: int = 10) -> list[list[Hit]]: ...

    def search(self, query: str | Sequence[str], top_k: int = 10) -> list[Hit] | list[list[Hit]]:
        """Find the texts most similar to a query, which is embedded with the model's query prompt if it has one.

        Args:
            query: A query, or a list of them.
            top_k: Hits per query, at least 1; more than there are texts gives all of them.

        Returns:
            For one query its hits, best first, equal scores in the order of the texts; for a list a list of these.

        Raises:
            TypeError: If a query is no string.
            ValueError: If a query is blank or has a zero or non-finite vector, ``top_k`` is below 1, or the index was
                loaded without a model.
        """
        if top_k < 1:
            raise ValueError(f"top_k is the number of hits wanted and must be at least 1, not {top_k}.")
        if self._model is None:
            raise ValueError(
                "This index was loaded without a model to embed queries: pass SearchIndex.load(path, model=...)."
            )
        queries = _checked_texts([query] if isinstance(query, str) else query, "query")
        if not queries:
            return []
        vectors = self._model.encode_query(
            queries, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
        )
        found = [
            [
                Hit(self._contents.ids[row], score, self._contents.texts[row].as_py())
                for score, row in zip(scores.tolist(), rows.tolist(), strict=True)
            ]
            for scores, rows in self._ann.search(_unit(vectors, queries), top_k)
        ]
        return found[0] if isinstance(query, str) else found

    def save(self, path: str | Path) -> None:
        """Save the index, but not the model, into a folder; an index that is there is replaced in one step.

        Args:
            path: The folder; made if it does not exist.

        Raises:
            BrokenIndexError: If a ``manifest.json`` that is no index lies there; it is left alone.
            OSError: If the folder cannot be written; an index that was there is left as it was.
        """
        store.write(path, self._contents)

    @classmethod
    def load(cls, path: str | Path, model: SentenceTransformer | str | Path | None = None) -> SearchIndex:
        """Load an index that ``save`` wrote.

        Args:
            path: The folder.
            model: The model that built the index, or its name or path. Without it, the index cannot be searched.

        Returns:
            The index.

        Raises:
            BrokenIndexError: If the folder holds no index, or one that is damaged or of a newer format.
            TypeError: If ``model`` is no model.
            ValueError: If another model built the index.
        """
        contents = store.read(path)
        if model is not None:
            model = _as_model(model)
            if _fingerprint(model) != contents.fingerprint:
                raise ValueError(
                    f"The index in {path} was built by another model, or by this one with other weights, prompts, "
                    "length limit or pooling: pass the model that built it, or build the index again with this one."
                )
        return cls(contents, model)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._contents.vectors)


def _as_model(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    if isinstance(model, (str, Path)):
        return SentenceTransformer(str(model))
    if isinstance(model, SentenceTransformer):
        return model
    raise TypeError(f"model must be a SentenceTransformer, or its name or path, not {type(model).__name__}.")


def _checked_texts(texts: Iterable[str] | Dataset, what: str) -> list[str]:
    from datasets import Dataset

    if isinstance(texts, Dataset):
        if "text" not in texts.column_names:
            raise ValueError(f"The dataset has no column 'text' but {texts.column_names}: pass dataset[column].")
        texts = texts["text"]
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"{what} must be a list of strings, not one {type(texts).__name__}.")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{what}[{position}] is {text!r:.60} and no string: leave it out or convert it.")
        if not text.strip():
            raise ValueError(f"{what}[{position}] is blank, and would match anything: leave it out.")
    return texts


def _checked_ids(ids: Iterable[int | str], rows: int) -> list[int | str]:
    ids = [int(item) if isinstance(item, np.integer) else item for item in ids]
    if len(ids) != rows:
        raise ValueError(f"There are {len(ids)} ids for {rows} texts: pass one id per text, or none at all.")
    seen = set()
    for item in ids:
        if not isinstance(item, (int, str)) or isinstance(item, bool):
            raise TypeError(f"The id {item!r:.60} is neither int nor str: convert it.")
        if item in seen:
            raise ValueError(f"The id {item!r:.60} is there twice: make the ids different.")
        seen.add(item)
    return ids


def _unit(vectors: np.ndarray, texts: list[str]) -> np.ndarray:
    """Vectors as float32 of length 1; half precision normalises to three digits only."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unusable = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(unusable):
        text = texts[unusable[0]]
        raise ValueError(
            f"The model gives {len(unusable)} of {len(texts)} texts a zero or non-finite vector, which nothing can "
            f"find, first {text!r:.60}: leave such texts out or repair the model."
        )
    return vectors / lengths


def _fingerprint(model: SentenceTransformer) -> str:
    """SHA-256 of all that decides on a vector: weights, pooling, prompts and truncation."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling

    settings = {
        "modules": [type(module).__name__ for module in model],
        "pooling": [module.get_config_dict() for module in model.modules() if isinstance(module, Pooling)],
        "prompts": model.prompts,
        "max_seq_length": model.max_seq_length,
        "truncate_dim": model.truncate_dim,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, because numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
