"""``st-mirror add``: add the texts of a file to an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import BUILDER, DEVICE, INDEX, argument, entries, index_verb
from sentence_transformers_mirror.cli.opening import opened, tell_of_rows


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
    tell_of_rows(args, facts, f"{len(added):,} texts added, {len(found):,} in all", skipped)
    return 0
