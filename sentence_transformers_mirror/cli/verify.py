"""``st-mirror verify``: read and verify every byte of an index."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import add_index, add_index_verb
from sentence_transformers_mirror.cli.messages import tell


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_index_verb(
        verbs, "verify", run, "read and verify every byte of an index; exit code 3 if it is broken"
    )
    add_index(parser)


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.verify(args.index)
    tell(args, found, f"whole: {found['texts']:,} texts, {found['files']} files, {found['bytes']:,} bytes")
    return 0
