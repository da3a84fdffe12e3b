"""Serve the page until Ctrl-C."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from sentence_transformers_mirror.demo.guard import OwnHost
from sentence_transformers_mirror.demo.page import LOOK, page, theme

if TYPE_CHECKING:
    from sentence_transformers_mirror.search import SearchIndex


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
    from starlette.middleware import Middleware

    blocks = page(index, before)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        theme=theme(),
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
