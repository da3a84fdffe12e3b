"""What the scripts of the paper's tables share: arguments, tuning as the paper does, and a table beside the paper's.

Numbers of the paper are those of Liu et al., EMNLP 2021 (arXiv 2104.08027), for BERT-base. Its "mean" baselines
average over padding, too, which makes them lower than a mean over the text (52.57 for STS with the latter).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from benchmarks.common import RESULTS, add_data, keep
from benchmarks.common import parser as plain_parser
from benchmarks.markdown import source, table
from sentence_transformers_mirror import embedded_model_path, mirror_tune
from sentence_transformers_mirror.evidence.labels import Pairs, read_pairs

Table = tuple[list[dict[str, object]], dict[str, tuple[str, str]]]  # lines, and changes from one to another


def parser(description: str, pooling: str = "mean") -> argparse.ArgumentParser:
    args = plain_parser(description)
    add_data(args)
    args.add_argument("--model", default=embedded_model_path(), help="folder or name (default: the embedded model)")
    args.add_argument("--pooling", default=pooling, choices=["mean", "cls"])
    args.add_argument("--learning-rate", type=float, default=2e-5, help="default: the paper's %(default)s")
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args.add_argument("--max-texts", type=int, default=10_000, help="to tune on (default: the paper's %(default)s)")
    return args


def load(args: argparse.Namespace, pooling: str | None = None) -> SentenceTransformer:
    transformer = Transformer(args.model)
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling or args.pooling)]
    )


def tuned(args: argparse.Namespace, texts: list[str], recipe: str, seed: int, **overrides: object):
    """A model after one of the paper's recipes."""
    model = load(args)
    options = {"max_texts": args.max_texts, "learning_rate": args.learning_rate, "guard": False, **overrides}
    mirror_tune(model, texts, recipe, seed=seed, **options)
    return model


def scored(args: argparse.Namespace, names: list[str]) -> dict[str, Pairs]:
    """Those of the named sets that are in the folder of the data.

    Raises:
        SystemExit: If none is.
    """
    found = {name: read_pairs(args.data, name) for name in names}
    found = {name: pairs for name, pairs in found.items() if pairs is not None}
    if not found:
        raise SystemExit(f"There is none of {', '.join(names)} in {args.data}.")
    return found


def line(what: str, paper: float | None, ours: Sequence[float] | float | None) -> dict[str, object]:
    """A line of a table; ours is a number, or one for each seed, or None for a set that is absent."""
    return {"what": what, "paper": paper, "ours": list(np.atleast_1d([] if ours is None else ours).astype(float))}


def effects(lines: Sequence[dict], changes: dict[str, tuple[str, str]]) -> list[dict[str, object]]:
    """How far what a change does is what it did in the paper.

    Args:
        lines: Of the table.
        changes: Of each name, the lines before and after; those that one side has no number of are left out.

    Returns:
        For each change: the paper's, ours (mean over seeds), the spread of ours, and whether it reproduces: in
        direction if ours has the paper's sign and is larger than the spread, in size if it is half to twice as large;
        one seed has no spread and cannot tell.
    """
    by_name = {one["what"]: one for one in lines}
    found = []
    for name, (start, end) in changes.items():
        start, end = by_name[start], by_name[end]
        if None in (start["paper"], end["paper"]) or not start["ours"] or not end["ours"]:
            continue
        paper = end["paper"] - start["paper"]
        ours = statistics.mean(end["ours"]) - statistics.mean(start["ours"])
        spread = max(max(one["ours"]) - min(one["ours"]) for one in (start, end))
        if len(end["ours"]) == 1:
            verdict = "one seed cannot tell"
        elif abs(ours) <= spread:
            verdict = "no effect beyond the spread"
        elif ours * paper < 0:
            verdict = "the opposite"
        else:
            verdict = "direction and size" if 0.5 <= ours / paper <= 2 else "direction, not size"
        found.append({"change": name, "paper": paper, "ours": ours, "spread": spread, "reproduces": verdict})
    return found


HEAD = (
    "## The paper's tables and figures\n\nThe paper's numbers are those of BERT-base (110M parameters); ours "
    "are of the model that is named, so directions and sizes of changes compare, and levels do not. A change "
    "reproduces in direction if ours has the paper's sign and is larger than the spread over seeds, and in "
    "size if it is half to twice as large.\n"
)


def section(kept: dict) -> str:
    """Of one table or figure."""
    result = kept["result"]
    lines = [
        {
            "": one["what"],
            "paper, BERT-base": "" if one["paper"] is None else f"{one['paper']:.1f}",
            "ours": f"{statistics.mean(one['ours']):.1f}" if one["ours"] else "absent",
            "spread": f"{max(one['ours']) - min(one['ours']):.1f}" if len(one["ours"]) > 1 else "",
        }
        for one in result["lines"]
    ]
    changes = [
        {
            "change": one["change"],
            "paper": f"{one['paper']:+.1f}",
            "ours": f"{one['ours']:+.1f}",
            "reproduces": one["reproduces"],
        }
        for one in result["effects"]
    ]
    words = (
        f"Model: {result['model']}, {result['pooling']} pooling after tuning, learning rate "
        f"{result['learning rate']:g}, at most {result['texts']:,} texts, seeds "
        f"{', '.join(map(str, result['seeds']))}. {result['words']}"
    )
    made = source(kept["environment"], of_the_embedded=result["model"] == "embedded")
    found = [table(lines), *([table(changes)] if changes else []), made]
    return "\n".join([f"### {result['title']}", "", words, "", *found])


def report(
    name: str,
    title: str,
    args: argparse.Namespace,
    lines: list[dict[str, object]],
    changes: dict[str, tuple[str, str]],
    words: str = "",
) -> None:
    """Keep the lines and which effects reproduce, and print their section."""
    kept = {
        "title": title,
        "model": "embedded" if args.model == embedded_model_path() else args.model,
        "pooling": args.pooling,
        "seeds": args.seeds,
        "texts": args.max_texts,
        "learning rate": args.learning_rate,
        "lines": lines,
        "effects": effects(lines, changes),
        "words": words,
    }
    print(section(keep(name, kept, args.output or RESULTS / "paper" / f"{name}.json")))
