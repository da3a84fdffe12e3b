"""Load a model, or say in one sentence why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_model(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    """A model from a folder or the hub; one that is loaded already is given back.

    Raises:
        OSError: If there is none.
    """
    if not isinstance(model, (str, Path)):
        return model
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(model))
    except (OSError, ValueError) as error:
        raise OSError(
            f"The model {str(model)!r} could not be loaded: no such folder, and no such model in the hub or no "
            f"network to reach it ({type(error).__name__})."
        ) from error
