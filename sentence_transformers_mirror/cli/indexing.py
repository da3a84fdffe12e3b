"""``st-mirror index``, ``add``, ``info`` and ``verify``: make an index, change it and look at it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sentence_transformers_mirror.cli.arguments import (
    BUILDER,
    DEVICE,
    DIMENSIONS,
    INDEX,
    argument,
    entries,
    index_verb,
)
from sentence_transformers_mirror.cli.checks import check_least, chosen
from sentence_transformers_mirror.cli.messages import remark, silence_others, tell

if TYPE_CHECKING:
    from sentence_transformers_mirror.search import SearchIndex

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
    _tell(args, made.facts(), f"{made.describe()}\nsaved to {args.output}", skipped)
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


def _tell(args: argparse.Namespace, facts: dict, words: str, skipped: list[str]) -> None:
    tell(args, {**facts, "skipped": len(skipped)}, words)
    if skipped:
        remark(f"{len(skipped):,} rows have no text and are left out, first {skipped[0]}")


@index_verb(
    "add the texts of a file to an index",
    *entries(required=True),
    argument("--force", action="store_true", help="replace texts of the index that have the same ids"),
    BUILDER,
    DEVICE,
    INDEX,
)
def add(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search.entries import columns

    if args.force and args.ids is None:
        raise ValueError("--force replaces texts that have the same ids: name the column of ids with --ids.")
    skipped: list[str] = []
    entered = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
    found = opened(args)
    added = found.add(*entered, overwrite=args.force)
    found.save(args.index)
    facts = {"added": len(added), "texts": len(found)}
    _tell(args, facts, f"{len(added):,} texts added, {len(found):,} in all", skipped)
    return 0


def opened(args: argparse.Namespace, where: dict | None = None, embeds: bool = True) -> SearchIndex:
    """The index with its model, every byte verified; what is broken is found before a model is loaded.

    The index may come from anybody. It does not choose what is fetched from the network, and what it names is said.
    A search by words needs no model.
    """
    from sentence_transformers_mirror.search import SearchIndex, filters

    if not embeds:
        return SearchIndex.load(args.index)
    found = SearchIndex.open(args.index)
    if where:
        filters.mask(found._snapshot, where)  # complains about keys that are not there
    name, model = found.facts()["model"], args.model
    if model is None and name is None:
        raise ValueError("The index does not know which model built it: pass --model.")
    silence_others()
    if model is None:
        from sentence_transformers_mirror.models import load_model

        remark(f"the index was built by the model {name!r}, which is loaded")
        try:
            model = load_model(name, local=True)
        except OSError as error:
            if Path(name).exists():
                raise
            raise OSError(
                f"The model {name!r}, which the index names, could not be loaded from this machine: pass --model, "
                "with its name to fetch it from the hub."
            ) from error
    return SearchIndex.load(args.index, model=model)


@index_verb("describe an index", INDEX)
def info(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.open(args.index)
    tell(args, found.facts(), found.describe())
    return 0


@index_verb("read and verify every byte of an index; exit code 3 if it is broken", INDEX)
def verify(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.verify(args.index)
    tell(args, found, f"whole: {found['texts']:,} texts, {found['files']} files, {found['bytes']:,} bytes")
    return 0
