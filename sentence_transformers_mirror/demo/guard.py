"""Who may ask the page, for how much, and that it asks nobody itself."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

_LARGEST = 1_000_000  # bytes of a request
_DRAINED = 2**24  # bytes that are read of one that is refused, so that whoever sends it reads why

# gradio builds functions from strings and writes styles into elements; what it loads may come from this server alone.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


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

        async def told(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event["headers"], (b"content-security-policy", _POLICY.encode())]}
            await send(event)

        if scope["type"] == "http":
            await self.app(scope, bounded, told)
        else:
            await self.app(scope, receive, send)

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
