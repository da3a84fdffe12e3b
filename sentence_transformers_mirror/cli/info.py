"""``st-mirror info``: describe an index."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import INDEX, index_verb
from sentence_transformers_mirror.cli.messages import tell


@index_verb("describe an index", INDEX)
def info(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.open(args.index)
    tell(args, found.facts(), found.describe())
    return 0
