"""From texts to unit vectors, and the proof that a model is the one that made an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sentence_transformers_mirror import embedding
from sentence_transformers_mirror.embedding import embed, readable
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.search.identity import Watch, fingerprint
from sentence_transformers_mirror.search.vectors import unit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


_LONGEST_QUERY = 1_000_000  # characters, for models that read texts of any length


class Encoder:
    """A model, and the fingerprint that it had when the encoder was made.

    Args:
        model: A model, or its name or path.
        dimensions: Keep only the first dimensions of a vector (Matryoshka models); by default what the model does.

    Raises:
        OSError: If there is no such model.
        TypeError: If ``model`` is no model.
        ValueError: If ``dimensions`` is more than the model has.
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
        dimensions = None if dimensions is None else whole_number(dimensions, "dimensions")
        size = model.get_embedding_dimension()
        if dimensions is not None and not (0 < dimensions and (size is None or dimensions <= size)):
            raise ValueError(f"dimensions must be between 1 and the {size} of the model, not {dimensions}.")
        limits = [limit for limit in (size, model.truncate_dim, dimensions) if limit is not None]
        self.width = min(limits, default=None)  # of its vectors, where the model knows
        self.model = model
        self.dimensions = dimensions
        self._watch = Watch(model, dimensions)  # before the fingerprint: a change in between must be seen
        self.fingerprint = fingerprint(model, dimensions)

    def queries(self, texts: list[str]) -> np.ndarray:
        """Unit vectors of queries, shape (texts, dimension), float32.

        Raises:
            ValueError: If the model was changed since the encoder was made, or a vector is zero or not finite.
        """
        self.verify()
        texts = readable(self.model, texts)
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
        """Unit vectors of documents, shape (texts, dimension), float32.

        Args:
            texts: A window of a corpus: the larger, the less padding.
            batch_size: As in `embed`.
            done: As in `embed`.
            before: As in `unit`.

        Raises:
            ValueError: If the model was changed since the encoder was made, or a vector is zero or not finite.
        """
        self.verify(share=10)  # what is wrong here stays in the index
        vectors = embed(
            self.model,
            texts,
            encode="encode_document",
            batch_size=batch_size,
            done=done,
            truncate_dim=self.dimensions,
        )
        self.verify()  # nor may it have changed meanwhile
        return unit(vectors, texts, before)

    def verify(self, share: int = 50) -> None:
        """Refuse a model that was changed, as tuning does in place; its queries are no match for the old vectors.

        Args:
            share: As in `Watch.changed`.

        Raises:
            ValueError: If it was.
        """
        if self._watch.changed(share):
            watch = Watch(self.model, self.dimensions)
            if fingerprint(self.model, self.dimensions) != self.fingerprint:
                raise ValueError(
                    "The model was changed since it built this index (tuned, or given other settings), and its "
                    "queries no longer match: call index.rebuild(model)."
                )
            self._watch = watch
