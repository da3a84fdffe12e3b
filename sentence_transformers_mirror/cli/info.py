"""``st-mirror info``: describe an index."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import add_index, add_index_verb
from sentence_transformers_mirror.cli.messages import tell


def add_parser(verbs: argparse._SubParsersAction) -> None:
    add_index(add_index_verb(verbs, "info", run, "describe an index"))


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    index = SearchIndex.open(args.index)
    tell(args, index.facts(), index.describe())
    return 0
