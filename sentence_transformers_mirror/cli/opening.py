"""What verbs of an index share: how it is opened, and what is told of the rows that went in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sentence_transformers_mirror.cli.messages import remark, silence_others, tell

if TYPE_CHECKING:
    from sentence_transformers_mirror.search import SearchIndex


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


def tell_of_rows(args: argparse.Namespace, facts: dict, words: str, skipped: list[str]) -> None:
    tell(args, {**facts, "skipped": len(skipped)}, words)
    if skipped:
        remark(f"{len(skipped):,} rows have no text and are left out, first {skipped[0]}")
