"""Search over texts: an index that is built, searched, changed, saved and loaded."""

from __future__ import annotations

from sentence_transformers_mirror.search.hits import Hit
from sentence_transformers_mirror.search.index import SearchIndex
from sentence_transformers_mirror.search.store import BrokenIndexError, ConflictError

__all__ = ["BrokenIndexError", "ConflictError", "Hit", "SearchIndex"]
