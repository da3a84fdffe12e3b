"""``st-mirror demo``: search an index on a web page."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import BUILDER, DEVICE, INDEX, argument, index_verb
from sentence_transformers_mirror.cli.opening import opened


@index_verb(
    "serve a web page to search an index (needs gradio, the extra `demo`)",
    BUILDER,
    DEVICE,
    argument(
        "--before", metavar="DIR", help="another index, seen beside the first; its model is the one that it names"
    ),
    argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)"),
    argument("--port", type=int, help="port to listen on (default: the first free one from 7860)"),
    INDEX,
)
def demo(args: argparse.Namespace) -> int:
    if args.port is not None and not 0 < args.port < 65_536:
        raise ValueError(f"--port is a number from 1 to 65535, not {args.port}.")
    from sentence_transformers_mirror.demo import serve

    before = None
    if args.before is not None:
        before = opened(argparse.Namespace(index=args.before, model=None))
    serve(opened(args), args.host, args.port, before=before)
    return 0
