"""``st-mirror encode``: make shards of vectors from files of texts."""

from __future__ import annotations

import argparse
import time

from sentence_transformers_mirror.cli.arguments import DEVICE, DIMENSIONS, MODEL, argument, entries, verb
from sentence_transformers_mirror.cli.checks import check_choices, check_least, chosen
from sentence_transformers_mirror.cli.messages import silence_others, tell
from sentence_transformers_mirror.cli.streams import STANDARD


@verb(
    "embed files of texts, a Parquet file of vectors for each",
    *entries("several, a pattern in quotation marks, or a folder", required=True, nargs="+"),
    MODEL,
    DEVICE,
    argument("--output", required=True, metavar="DIR", help="folder of the shards, or its URI"),
    argument("--engine", default="local", help="local, or ray for a cluster (default: %(default)s)"),
    argument("--workers", type=int, metavar="N", help="processes (default: one, or one a GPU)"),
    argument("--threads", type=int, metavar="N", help="cores of a worker without a GPU"),
    DIMENSIONS,
)
def encode(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.scale.shards import ENGINES, encode_shards
    from sentence_transformers_mirror.search.shards import read_shard

    if STANDARD in args.texts:
        raise ValueError("Each file of --texts becomes a shard: name one in place of -.")
    check_choices(args, engine=ENGINES)
    check_least(args, 1, "workers", "threads", "dimensions")
    silence_others()
    start = time.perf_counter()
    shards = encode_shards(
        args.model,
        args.texts if len(args.texts) > 1 else args.texts[0],
        args.output,
        **chosen(args, "engine", "workers", "threads", "column", "ids", "metadata", "dimensions"),
    )
    texts = sum(read_shard(shard).rows for shard in shards)
    facts = {"shards": len(shards), "texts": texts, "seconds": time.perf_counter() - start, "output": args.output}
    tell(args, facts, f"{len(shards):,} shards with {texts:,} texts in {args.output}")
    return 0
