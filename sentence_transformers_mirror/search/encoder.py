"""From texts to unit vectors, and the proof that a model is the one that made an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sentence_transformers_mirror import embedding
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.search.identity import Watch, fingerprint
from sentence_transformers_mirror.search.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LONGEST_QUERY = 1_000_000  # characters, for models that read texts of any length


class Encoder:
    """A model, given by itself or its name or path, and the fingerprint that it had when the encoder was made.

    Only the first dimensions of its vectors are kept if so many are given (Matryoshka models).
    """

    def __init__(self, model: SentenceTransformer | str | Path, dimensions: int | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        from sentence_transformers_mirror.models import load_model

        self.name = None
        if isinstance(model, (str, Path)):
            # An absolute path, because the next program starts in another folder.
            self.name = str(Path(model).resolve()) if Path(model).exists() else str(model)
            model = load_model(model)
        if not isinstance(model, SentenceTransformer):
            raise TypeError(f"model must be a SentenceTransformer, or its name or path, not {type(model).__name__}.")
        size = model.get_embedding_dimension()
        if dimensions is not None:
            dimensions = whole_number(dimensions, "dimensions")
            if not 0 < dimensions <= (dimensions if size is None else size):
                raise ValueError(f"dimensions must be between 1 and the {size} of the model, not {dimensions}.")
        limits = [limit for limit in (size, model.truncate_dim, dimensions) if limit is not None]
        self.width = min(limits, default=None)  # of its vectors, where the model knows
        self.model, self.dimensions = model, dimensions
        self._watch = Watch(model, dimensions)  # before the fingerprint: a change in between must be seen
        self.fingerprint = fingerprint(model, dimensions)

    def queries(self, texts: list[str]) -> np.ndarray:
        """Unit vectors of queries, shape (texts, dimension), float32."""
        self.verify()
        texts = embedding.readable(self.model, texts)
        for number, text in enumerate(texts):
            if len(text) > _LONGEST_QUERY:
                raise ValueError(
                    f"Query {number} has {len(text):,} characters, more than {_LONGEST_QUERY:,}: ask by a part of it."
                )
        with embedding.ONE_AT_A_TIME:
            vectors = self.model.encode_query(
                texts, show_progress_bar=False, convert_to_numpy=True, truncate_dim=self.dimensions
            )
        return unit(vectors, texts)

    def documents(
        self,
        texts: list[str],
        batch_size: int | None = None,
        done: Callable[[int], object] | None = None,
        before: int | None = None,
    ) -> np.ndarray:
        """Unit vectors of documents, shape (texts, dimension), float32; arguments as in `embed` and `unit`."""
        self.verify(share=10)  # what is wrong here stays in the index
        vectors = embedding.embed(
            self.model, texts, encode="encode_document", batch_size=batch_size, done=done, truncate_dim=self.dimensions
        )
        self.verify()  # nor may it have changed meanwhile
        return unit(vectors, texts, before)

    def verify(self, share: int = 50) -> None:
        """Refuse a model that was changed, as tuning does in place; its queries are no match for the old vectors."""
        if self._watch.changed(share):
            watch = Watch(self.model, self.dimensions)
            if fingerprint(self.model, self.dimensions) != self.fingerprint:
                raise ValueError(
                    "The model was changed since it built this index (tuned, or given other settings), and its "
                    "queries no longer match: call index.rebuild(model)."
                )
            self._watch = watch
