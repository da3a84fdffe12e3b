"""A web page to search an index: results with score bars, a filter, and the neighbours of a hit on a click."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

try:
    import gradio
except ImportError as error:
    raise ImportError("The page needs gradio: pip install 'sentence-transformers-mirror[demo]'.") from error

if TYPE_CHECKING:
    from sentence_transformers_mirror.search import Hit, SearchIndex

_COLUMNS = ["score", "", "id", "text", "metadata"]
_BAR = 20  # characters of a score of 1


def parse_filter(text: str) -> dict[str, Any] | None:
    """A filter as a person types it: nothing, or a JSON object such as ``{"language": ["en", "de"]}``.

    Raises:
        ValueError: If it is neither.
    """
    if not text.strip():
        return None
    try:
        where = json.loads(text)
    except ValueError:
        where = None
    if not isinstance(where, dict):
        raise ValueError('A filter is a JSON object such as {"language": "en"}.')
    return where


def _row(hit: Hit) -> list[str]:
    metadata = json.dumps(hit.metadata, ensure_ascii=False) if hit.metadata else ""
    return [f"{hit.score:.3f}", "█" * round(_BAR * max(hit.score, 0)), str(hit.id), hit.text, metadata]


def page(index: SearchIndex) -> gradio.Blocks:
    """The page, a ``gradio.Blocks``."""

    def search(query: str, top_k: float, where: str) -> tuple[list[list[str]], str]:
        try:
            hits = index.search(query, top_k=int(top_k), where=parse_filter(where))
        except (TypeError, ValueError) as error:
            return [], str(error)
        return [_row(hit) for hit in hits], f"{len(hits)} hits. Click on one to see its neighbours."

    def neighbours(event: gradio.SelectData, top_k: float, where: str) -> tuple[list[list[str]], str, str]:
        text = event.row_value[_COLUMNS.index("text")]
        return *search(text, top_k, where), text

    with gradio.Blocks(title="st-mirror", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# Search {len(index):,} texts")
        with gradio.Row():
            query = gradio.Textbox(label="Query", elem_id="query", scale=4)
            top_k = gradio.Slider(1, 100, value=10, step=1, label="Hits")
            where = gradio.Textbox(label="Filter on metadata, as JSON", elem_id="where")
        button = gradio.Button("Search", elem_id="search", variant="primary")
        told = gradio.Textbox(label="", show_label=False, interactive=False, elem_id="told")
        # "str" cells are shown as text; "html" and "markdown" would run what the corpus says.
        hits = gradio.Dataframe(headers=_COLUMNS, datatype="str", interactive=False, wrap=True, elem_id="hits")
        for event in (query.submit, button.click):
            event(search, [query, top_k, where], [hits, told])
        hits.select(neighbours, [top_k, where], [hits, told, query])
    return blocks


def serve(index: SearchIndex, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Serve the page, to this machine only unless told otherwise.

    Args:
        index: With a model.
        host: Address to listen on; ``0.0.0.0`` lets every machine in the network search.
        port: Or the first free one from 7860.
        block: Whether to stay until interrupted.

    Returns:
        The address of the page.
    """
    _, address, _ = page(index).launch(
        server_name=host, server_port=port, prevent_thread_lock=not block, share=False, quiet=not block
    )
    return address
