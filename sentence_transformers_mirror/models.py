"""Load a model, or say in one sentence why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def load_model(name: str | Path) -> SentenceTransformer:
    """A model from a folder or the hub.

    Raises:
        OSError: If there is none.
    """
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(name))
    except (OSError, ValueError) as error:
        raise OSError(
            f"The model {str(name)!r} could not be loaded: no such folder, and no such model in the hub or no network "
            f"to reach it ({type(error).__name__})."
        ) from error
