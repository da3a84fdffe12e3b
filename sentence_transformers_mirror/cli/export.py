"""``st-mirror export``: send shards of vectors to Milvus."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import add_verb
from sentence_transformers_mirror.cli.messages import silence_others, tell


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "export", run, "send what encode made to Milvus")
    parser.add_argument("--shards", required=True, nargs="+", metavar="FILE", help="files, pattern or folder")
    parser.add_argument(
        "--output", required=True, metavar="URI", help="milvus://host:19530/collection or folder.db/collection"
    )


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.scale.milvus import export

    silence_others()
    texts = export(args.shards if len(args.shards) > 1 else args.shards[0], args.output)
    tell(args, {"texts": texts, "output": args.output}, f"{texts:,} texts are in {args.output}")
    return 0
