"""``st-mirror index``: make an index from a file of texts, or from shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import DEVICE, DIMENSIONS, argument, entries, index_verb
from sentence_transformers_mirror.cli.checks import check_least, chosen
from sentence_transformers_mirror.cli.messages import silence_others
from sentence_transformers_mirror.cli.opening import tell_of_rows

_KINDS = ("auto", "flat", "hnsw", "ivf-flat", "ivf-sq8", "ivf-pq")


@index_verb(
    "index the texts of a file",
    *entries(),
    argument(
        "--shards", nargs="+", metavar="FILE", help="what encode made, in place of --texts: files, pattern or folder"
    ),
    argument("--model", help="folder, or name in the Hugging Face hub (--shards know their model)"),
    DEVICE,
    argument("--output", required=True, metavar="DIR", help="where to write the index"),
    argument("--force", action="store_true", help="replace an index that is in --output"),
    argument(
        "--kind", default="auto", help="auto, flat, hnsw, ivf-flat, ivf-sq8, ivf-pq or a factory string of FAISS"
    ),
    DIMENSIONS,
    argument("--language", help="stem words for a search by words, such as english (default: as they are)"),
    argument("--passages", type=int, metavar="N", help="cut texts into passages of at most N tokens"),
)
def index(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex, store
    from sentence_transformers_mirror.search.entries import columns

    if args.kind not in _KINDS:
        from sentence_transformers_mirror.search.choosing import check_factory

        check_factory(args.kind)  # whether it suits the texts is seen when they are there
    check_least(args, 1, "dimensions")
    store.refuse_taken(args.output, args.force)
    _check_source(args)
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise OSError(f"The index could not be saved in {args.output}: it is a file; name a folder.")
    how = {"path": args.output, "overwrite": args.force, **chosen(args, "kind", "language")}
    skipped: list[str] = []
    if args.shards:
        silence_others()
        shards = args.shards if len(args.shards) > 1 else args.shards[0]
        made = SearchIndex.from_shards(shards, model=args.model, **how)
    else:
        texts, ids, metadata = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
        silence_others()
        how |= chosen(args, "dimensions", "passages")
        made = SearchIndex.build(args.model, texts, ids=ids, metadata=metadata, **how)
    tell_of_rows(args, made.facts(), f"{made.describe()}\nsaved to {args.output}", skipped)
    return 0


def _check_source(args: argparse.Namespace) -> None:
    """Complain unless there are either texts and a model, or shards, in which texts were cut and chosen already."""
    if (args.texts is None) == (args.shards is None):
        raise ValueError("Say what is indexed: --texts FILE with --model, or --shards FILE.")
    if args.texts is not None and args.model is None:
        raise ValueError("--texts are embedded by a model: pass --model.")
    if args.shards is not None:
        for flag in ("column", "ids", "metadata", "dimensions", "passages"):
            if getattr(args, flag):
                raise ValueError(f"--{flag} is a choice of `st-mirror encode` and not of --shards: leave it out.")
