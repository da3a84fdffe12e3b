"""A web page to search an index by meaning, words or both: cards with the words of the query marked, metadata that
filters on a click, a map of the texts, and two indexes side by side."""

from __future__ import annotations

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError("The page needs gradio: pip install 'sentence-transformers-mirror[demo]'.") from error

from sentence_transformers_mirror.demo.page import page
from sentence_transformers_mirror.demo.serving import serve

__all__ = ["page", "serve"]
