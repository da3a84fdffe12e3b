"""``st-mirror export``: send shards to Milvus."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import argument, verb
from sentence_transformers_mirror.cli.messages import silence_others, tell


@verb(
    "send what encode made to Milvus",
    argument("--shards", required=True, nargs="+", metavar="FILE", help="files, pattern or folder"),
    argument("--output", required=True, metavar="URI", help="milvus://host:19530/collection or folder.db/collection"),
)
def export(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.scale import milvus

    silence_others()
    texts = milvus.export(args.shards if len(args.shards) > 1 else args.shards[0], args.output)
    tell(args, {"texts": texts, "output": args.output}, f"{texts:,} texts are in {args.output}")
    return 0
