"""Search over texts: an exact index that is built, searched, saved and loaded."""

from __future__ import annotations

from sentence_transformers_mirror.search.index import Hit, SearchIndex

__all__ = ["Hit", "SearchIndex"]
