"""``st-mirror verify``: read every byte of an index."""

from __future__ import annotations

import argparse

from sentence_transformers_mirror.cli.arguments import INDEX, index_verb
from sentence_transformers_mirror.cli.messages import tell


@index_verb("read and verify every byte of an index; exit code 3 if it is broken", INDEX)
def verify(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.verify(args.index)
    tell(args, found, f"whole: {found['texts']:,} texts, {found['files']} files, {found['bytes']:,} bytes")
    return 0
