"""Serve the page until Ctrl-C: who may ask it, for how much, and that it asks nobody itself."""

from __future__ import annotations

import ipaddress
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import gradio
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from sentence_transformers_mirror.demo.page import LOOK, page
from sentence_transformers_mirror.search import SearchIndex

_LARGEST = 1_000_000  # bytes of a request
_DRAINED = 2**24  # bytes that are read of one that is refused, so that whoever sends it reads why

# gradio builds functions from strings and writes styles into elements; what it loads may come from this server alone.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def serve(
    index: SearchIndex,
    host: str = "127.0.0.1",
    port: int | None = None,
    block: bool = True,
    before: SearchIndex | None = None,
) -> str:
    """Serve the page, to this machine only unless told otherwise.

    Args:
        index: An index that has a model.
        host: Address to listen on; ``0.0.0.0`` lets every machine in the network search, by the address or the name
            of this one.
        port: The port to listen on; by default the first free one from 7860.
        block: Whether to stay until interrupted.
        before: Another index, such as one over the same texts by the model before tuning, to be seen beside it.

    Returns:
        The address of the page, if it does not stay.

    Raises:
        KeyboardInterrupt: On Ctrl-C; the page is closed.
    """
    blocks = page(index, before)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        # With fonts of the reader's machine: those of gradio's own themes come from another one.
        theme=gradio.themes.Base(font="sans-serif", font_mono="monospace", radius_size="lg"),
        css=LOOK,
        footer_links=[],
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(OwnHost, host=host)]},
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


class OwnHost:
    """Answers only what asks for this machine by its address or one of its names, and takes no uploads.

    A web page that the user visits can point a name of its own at this machine (DNS rebinding) and would then read
    the corpus; it can do so with no address and with no name of the machine. The page has nothing to upload. What it
    loads it loads from here, whatever the corpus or a library says.
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
            await PlainTextResponse(reason, 403, {"content-type": "text/plain"})(scope, receive, send)
            return
        taken = 0

        async def bounded() -> dict[str, Any]:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            return {"type": "http.disconnect"} if taken > _LARGEST else event  # of a request that told no length

        async def told(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event["headers"], (b"content-security-policy", _POLICY.encode())]}
            await send(event)

        await self.app(scope, bounded, told)  # which pass on all that belongs to a socket

    def _refused(self, scope: dict[str, Any]) -> str | None:
        headers = {name.lower(): value for name, value in reversed(scope["headers"])}  # the first of a name counts
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
