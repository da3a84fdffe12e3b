"""A web page to search an index by meaning, words or both: results with score bars and the words of the query marked,
a filter, and the neighbours of a hit on a click."""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

try:
    import gradio
except ImportError as error:
    raise ImportError("The page needs gradio: pip install 'sentence-transformers-mirror[demo]'.") from error

from sentence_transformers_mirror.search.fusion import MODES, Mode
from sentence_transformers_mirror.search.words import marked

if TYPE_CHECKING:
    from sentence_transformers_mirror.search import Hit, SearchIndex

_COLUMNS = ["score", "", "id", "text", "metadata"]
_MARKS = "⟦", "⟧"  # around words of the query: in plain text, since HTML of the corpus would run
_BAR = 20  # characters of a score of 1
_LARGEST = 1_000_000  # bytes of a request
_DRAINED = 2**24  # bytes that are read of one that is refused, so that whoever sends it reads why


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


def _row(hit: Hit, query: str, language: str | None, best: float) -> list[str]:
    metadata = json.dumps(hit.metadata, ensure_ascii=False) if hit.metadata else ""
    text = hit.text if hit.passage is None else hit.passage
    if hit.words is not None:
        text = marked(text, query, language, *_MARKS)
    return [f"{hit.score:.3f}", "█" * round(_BAR * max(hit.score / best, 0)), str(hit.id), text, metadata]


def page(index: SearchIndex) -> gradio.Blocks:
    """The page, a ``gradio.Blocks``."""

    language = index.facts()["language"]

    def search(query: str, top_k: float, where: str, mode: Mode) -> tuple[list[list[str]], str]:
        try:
            hits = index.search(query, top_k=int(top_k), where=parse_filter(where), mode=mode)
        except (TypeError, ValueError) as error:
            return [], str(error)
        # A cosine has a bar of its own; BM25 has no largest value but that of the best hit.
        best = 1.0 if mode == "meaning" else max((hit.score for hit in hits), default=1.0)
        rows = [_row(hit, query, language, best) for hit in hits]
        return rows, f"{len(hits)} hits. Click on one to see its neighbours."

    def neighbours(event: gradio.SelectData, top_k: float, where: str, mode: Mode) -> tuple[list[list[str]], str, str]:
        text = event.row_value[_COLUMNS.index("text")]
        for mark in _MARKS:
            text = text.replace(mark, "")
        return *search(text, top_k, where, mode), text

    with gradio.Blocks(title="st-mirror", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# Search {len(index):,} texts")
        with gradio.Row():
            query = gradio.Textbox(label="Query", elem_id="query", scale=4)
            top_k = gradio.Slider(1, 100, value=10, step=1, label="Hits")
            where = gradio.Textbox(label="Filter on metadata, as JSON", elem_id="where")
            mode = gradio.Radio(list(MODES), value="meaning", label="Search by", elem_id="mode")
        button = gradio.Button("Search", elem_id="search", variant="primary")
        told = gradio.Textbox(label="", show_label=False, interactive=False, elem_id="told")
        # "str" cells are shown as text; "html" and "markdown" would run what the corpus says.
        hits = gradio.Dataframe(headers=_COLUMNS, datatype="str", interactive=False, wrap=True, elem_id="hits")
        for event in (query.submit, button.click):
            event(search, [query, top_k, where, mode], [hits, told])
        hits.select(neighbours, [top_k, where, mode], [hits, told, query])
    return blocks


def serve(index: SearchIndex, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Serve the page, to this machine only unless told otherwise.

    Args:
        index: An index that has a model.
        host: Address to listen on; ``0.0.0.0`` lets every machine in the network search, by the address or the name
            of this one.
        port: The port to listen on; by default the first free one from 7860.
        block: Whether to stay until interrupted.

    Returns:
        The address of the page, if it does not stay.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the page is closed.
    """
    from starlette.middleware import Middleware

    blocks = page(index)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        app_kwargs={"middleware": [Middleware(_OwnHost, host=host)]},
    )
    if block:
        if sys.stderr is not None:  # for people, whatever a program does with its log
            sys.stderr.write(f"The page is at {address} until Ctrl-C.\n")
        try:
            while True:
                time.sleep(1)  # Windows does not interrupt a wait without an end
        finally:
            blocks.close(verbose=False)
    return address


class _OwnHost:
    """Answers only what asks for this machine by its address or one of its names, and takes no uploads.

    A web page that the user visits can point a name of its own at this machine (DNS rebinding) and would then read
    the corpus; it can do so with no address and with no name of the machine. The page has nothing to upload.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], host: str) -> None:
        self.app = app
        self.names = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and (reason := self._refused(scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            taken, more = 0, True
            while more and taken < _DRAINED:
                event = await receive()
                taken += len(event.get("body", b""))
                more = event.get("more_body", False)
            body = reason.encode()
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        taken = 0

        async def bounded() -> dict[str, Any]:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            return {"type": "http.disconnect"} if taken > _LARGEST else event  # of a request that told no length

        await self.app(scope, bounded if scope["type"] == "http" else receive, send)

    def _refused(self, scope: dict[str, Any]) -> str | None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), value)
        if not self._is_own(headers.get(b"host", b"").decode("latin-1")):
            return "This page answers to the address or the name of its machine only."
        origin = headers.get(b"origin", b"")
        if origin and origin.partition(b"://")[2] != headers[b"host"]:
            return "This page is not for other websites."
        if "upload" in scope["path"].rstrip("/").rsplit("/", 1)[-1]:
            return "This page takes no uploads."
        if int(headers.get(b"content-length", b"0") or 0) > _LARGEST:
            return "This request is too large."
        return None

    def _is_own(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
            return True
        except ValueError:
            return name.lower() in self.names
