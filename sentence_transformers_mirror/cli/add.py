"""``st-mirror add``: add the texts of a file to an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import add_entries, add_index, add_index_verb, add_model
from sentence_transformers_mirror.cli.messages import tell, tell_skipped
from sentence_transformers_mirror.cli.opening import opened


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_index_verb(verbs, "add", run, "add the texts of a file to an index")
    add_entries(parser)
    parser.add_argument("--force", action="store_true", help="replace texts of the index that have the same ids")
    add_model(parser)
    add_index(parser)


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search.entries import columns

    if args.force and args.ids is None:
        raise ValueError("--force replaces texts that have the same ids: name the column of ids with --ids.")
    skipped: list[str] = []
    entries = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
    index = opened(args)
    added = index.add(*entries, overwrite=args.force)
    index.save(args.index)
    facts = {"added": len(added), "texts": len(index), "skipped": len(skipped)}
    tell(args, facts, f"{len(added):,} texts added, {len(index):,} in all")
    tell_skipped(skipped)
    return 0
