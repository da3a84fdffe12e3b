"""``st-mirror encode``: make shards of vectors from files of texts."""

from __future__ import annotations

import argparse
import time

from sentence_transformers_mirror.cli.arguments import add_device, add_entries, add_verb, check_choice
from sentence_transformers_mirror.cli.messages import silence_others, tell
from sentence_transformers_mirror.cli.streams import STANDARD


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "encode", run, "embed files of texts, a Parquet file of vectors for each")
    add_entries(parser, several=True)
    parser.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    add_device(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the shards, or its URI")
    parser.add_argument("--engine", default="local", help="local, or ray for a cluster (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one, or one a GPU)")
    parser.add_argument("--threads", type=int, metavar="N", help="cores of a worker without a GPU")
    parser.add_argument("--dimensions", type=int, metavar="N", help="keep N dimensions of a Matryoshka model")


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.scale.shards import ENGINES, encode_shards
    from sentence_transformers_mirror.search.shards import read_shard

    if STANDARD in args.texts:
        raise ValueError("Each file of --texts becomes a shard: name one in place of -.")
    check_choice("--engine", args.engine, list(ENGINES))
    for flag in ("workers", "threads", "dimensions"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ValueError(f"--{flag} must be at least 1, not {value}.")
    silence_others()
    start = time.perf_counter()
    shards = encode_shards(
        args.model,
        args.texts if len(args.texts) > 1 else args.texts[0],
        args.output,
        engine=args.engine,
        workers=args.workers,
        threads=args.threads,
        column=args.column,
        ids=args.ids,
        metadata=args.metadata,
        dimensions=args.dimensions,
    )
    texts = sum(read_shard(shard).rows for shard in shards)
    facts = {"shards": len(shards), "texts": texts, "seconds": time.perf_counter() - start, "output": args.output}
    tell(args, facts, f"{len(shards):,} shards with {texts:,} texts in {args.output}")
    return 0
