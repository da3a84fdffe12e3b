"""``st-mirror search``: search an index."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Literal

from sentence_transformers_mirror.cli.arguments import add_index, add_index_verb, add_model, check_choice
from sentence_transformers_mirror.cli.messages import NO_HITS, complain
from sentence_transformers_mirror.cli.opening import opened
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.terminal import is_terminal


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_index_verb(verbs, "search", run, "search an index; exit code 1 if nothing is found")
    add_model(parser)
    parser.add_argument("--top-k", type=int, default=10, metavar="N", help="hits wanted (default: %(default)s)")
    parser.add_argument(
        "--threshold",
        help='least cosine of a hit, or "auto": above chance in this corpus; least BM25 with --mode words',
    )
    parser.add_argument("--mode", default="meaning", help="meaning, words or both (default: %(default)s)")
    parser.add_argument("--weight", type=float, metavar="W", help="of meaning with --mode both, 0 to 1")
    parser.add_argument("--fusion", default="convex", help="how both become one: convex or rrf (default: %(default)s)")
    parser.add_argument("--rerank", metavar="MODEL", help="a CrossEncoder that orders the hits, folder or name")
    parser.add_argument(
        "--candidates", type=int, default=50, metavar="N", help="hits that --rerank looks at (default: %(default)s)"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="metadata that a hit must have; several keys must all be met, one key several times by any value",
    )
    add_index(parser)
    parser.add_argument("query", help="what to search for")


def run(args: argparse.Namespace) -> int:
    threshold, where = _threshold(args.threshold), _conditions(args.where)
    if args.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, not {args.top_k}.")
    from sentence_transformers_mirror.scalars import whole_number
    from sentence_transformers_mirror.search import fusion

    check_choice("--mode", args.mode, list(fusion.MODES))
    check_choice("--fusion", args.fusion, list(fusion.FUSIONS))
    fusion.check(args.mode, args.weight, args.fusion)
    whole_number(args.candidates, "candidates", 1)
    _check_threshold(threshold, args.mode)
    hits = opened(args, where, embeds=args.mode != "words").search(
        args.query,
        top_k=args.top_k,
        threshold=threshold,
        where=where or None,
        mode=args.mode,
        weight=args.weight,
        fusion=args.fusion,
        rerank=args.rerank,
        candidates=args.candidates,
    )
    if args.json or not is_terminal(sys.stdout):
        for hit in hits:
            told = {name: getattr(hit, name) for name in ("id", "score", "meaning", "words", "text", "metadata")}
            if hit.span is not None:
                told.update(passage=hit.passage, span=hit.span)
            print(json.dumps(told))
    else:
        _print_table(hits)
    return 0 if hits else NO_HITS


def _threshold(text: str | None) -> float | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'--threshold is a number from -1 to 1 or "auto", not {text!r}.') from None


def _check_threshold(threshold: float | Literal["auto"] | None, mode: str) -> None:
    if mode == "words":
        if threshold == "auto" or (isinstance(threshold, float) and not threshold >= 0):
            raise ValueError(f"--threshold is a BM25 score with --mode words, a number from 0, not {threshold}.")
    elif isinstance(threshold, float) and not -1 <= threshold <= 1:
        raise ValueError(f'--threshold is a number from -1 to 1 or "auto", not {threshold}.')


def _conditions(texts: list[str]) -> dict[str, list]:
    """What metadata must be: a value as it stands, or as the number, truth value or null that it spells."""
    where: dict[str, list] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--where takes KEY=VALUE, not {text!r}.")
        where.setdefault(key, []).append(value)
        try:
            meant = json.loads(value)
            if not isinstance(meant, (list, dict)):  # which no condition can ask for
                where[key].append(meant)
        except (ValueError, RecursionError):
            pass
    return where


def _print_table(hits: list) -> None:
    import shutil

    rows = [
        (f"{hit.score:.3f}", hit.id, hit.text if hit.passage is None else hit.passage, hit.metadata or "")
        for hit in hits
    ]
    cells = [list(map(printable, row)) for row in rows]
    width = max((len(row[1]) for row in cells), default=0)
    for score, item, text, metadata in cells:
        line = f"{score}  {item:{min(width, 30)}.30}  {text}  {metadata}".rstrip()
        print(line[: shutil.get_terminal_size().columns])
    if not hits:
        complain("nothing was found")
