"""``st-mirror index``: index the texts of a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import add_device, add_entries, add_index_verb
from sentence_transformers_mirror.cli.messages import silence_others, tell, tell_skipped

_KINDS = ["auto", "flat", "hnsw", "ivf-flat", "ivf-sq8", "ivf-pq"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_index_verb(verbs, "index", run, "index the texts of a file")
    add_entries(parser, required=False)
    parser.add_argument(
        "--shards", nargs="+", metavar="FILE", help="what encode made, in place of --texts: files, pattern or folder"
    )
    parser.add_argument("--model", help="folder, or name in the Hugging Face hub (--shards know their model)")
    add_device(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="where to write the index")
    parser.add_argument("--force", action="store_true", help="replace an index that is in --output")
    parser.add_argument(
        "--kind", default="auto", help="auto, flat, hnsw, ivf-flat, ivf-sq8, ivf-pq or a factory string of FAISS"
    )
    parser.add_argument("--dimensions", type=int, metavar="N", help="keep N dimensions of a Matryoshka model")
    parser.add_argument("--language", help="stem words for a search by words, such as english (default: as they are)")
    parser.add_argument("--passages", type=int, metavar="N", help="cut texts into passages of at most N tokens")


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex, store
    from sentence_transformers_mirror.search.entries import columns

    _check_kind(args.kind)
    if args.dimensions is not None and args.dimensions < 1:
        raise ValueError(f"--dimensions must be at least 1, not {args.dimensions}.")
    store.refuse_taken(args.output, args.force)
    _check_source(args)
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise OSError(f"The index could not be saved in {args.output}: it is a file; name a folder.")
    if args.shards:
        silence_others()
        index = SearchIndex.from_shards(
            args.shards if len(args.shards) > 1 else args.shards[0],
            path=args.output,
            model=args.model,
            kind=args.kind,
            language=args.language,
            overwrite=args.force,
        )
        tell(args, {**index.facts(), "skipped": 0}, f"{index.describe()}\nsaved to {args.output}")
        return 0
    skipped: list[str] = []
    texts, ids, metadata = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
    silence_others()
    index = SearchIndex.build(
        args.model,
        texts,
        ids=ids,
        metadata=metadata,
        kind=args.kind,
        dimensions=args.dimensions,
        language=args.language,
        passages=args.passages,
        path=args.output,
        overwrite=args.force,
    )
    tell(args, {**index.facts(), "skipped": len(skipped)}, f"{index.describe()}\nsaved to {args.output}")
    tell_skipped(skipped)
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


def _check_kind(kind: str) -> None:
    """Complain about what FAISS cannot read; whether it suits the texts is seen when they are there."""
    if kind not in _KINDS:
        from sentence_transformers_mirror.search.choosing import check_factory

        check_factory(kind)
