"""``st-mirror demo``: serve a web page to search an index."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import add_index, add_index_verb, add_model
from sentence_transformers_mirror.cli.opening import opened


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_index_verb(verbs, "demo", run, "serve a web page to search an index (needs gradio, the extra `demo`)")
    add_model(parser)
    parser.add_argument(
        "--before", metavar="DIR", help="another index, seen beside the first; its model is the one that it names"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    add_index(parser)


def run(args: argparse.Namespace) -> int:
    if args.port is not None and not 0 < args.port < 65_536:
        raise ValueError(f"--port is a number from 1 to 65535, not {args.port}.")
    from sentence_transformers_mirror.demo import serve

    before = None
    if args.before is not None:
        before = opened(argparse.Namespace(**{**vars(args), "index": args.before, "model": None}))
    serve(opened(args), args.host, args.port, before=before)
    return 0
