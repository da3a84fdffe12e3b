"""``st-mirror search``: search an index in a shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from sentence_transformers_mirror.cli.arguments import BUILDER, DEVICE, INDEX, MANY, argument, index_verb
from sentence_transformers_mirror.cli.checks import check_choices, check_least, chosen
from sentence_transformers_mirror.cli.messages import NO_HITS, complain, in_flags, is_read_by_people, remark
from sentence_transformers_mirror.cli.opening import opened
from sentence_transformers_mirror.cli.streams import STANDARD
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.terminal import is_terminal


@index_verb(
    "search an index; exit code 1 if nothing is found",
    BUILDER,
    DEVICE,
    argument("--top-k", type=int, default=10, metavar="N", help="hits wanted (default: %(default)s)"),
    argument(
        "--threshold",
        help='least cosine of a hit, or "auto": above chance in this corpus; least BM25 with --mode words',
    ),
    argument("--mode", default="meaning", help="meaning, words or both (default: %(default)s)"),
    argument("--weight", type=float, metavar="W", help="of meaning with --mode both, 0 to 1"),
    argument("--fusion", default="convex", help="how both become one: convex or rrf (default: %(default)s)"),
    argument("--rerank", metavar="MODEL", help="a CrossEncoder that orders the hits, folder or name"),
    argument(
        "--candidates", type=int, default=50, metavar="N", help="hits that --rerank looks at (default: %(default)s)"
    ),
    argument(
        "--where",
        **MANY,
        metavar="KEY=VALUE",
        help="metadata that a hit must have; several keys must all be met, one key several times by any value",
    ),
    INDEX,
    argument(
        "query",
        nargs="?",
        help="what to search for; - reads queries from standard input, one a line; none asks for one after the other, "
        "on a terminal",
    ),
)
def search(args: argparse.Namespace) -> int:
    threshold, where = _threshold(args.threshold), _conditions(args.where)
    check_least(args, 1, "top_k")
    from sentence_transformers_mirror.search import fusion

    check_choices(args, mode=fusion.MODES, fusion=fusion.FUSIONS)
    fusion.check(args.mode, args.weight, args.fusion)
    check_least(args, 1, "candidates")
    _check_threshold(threshold, args.mode)
    queries = _queries(args.query)
    index = opened(args, where, embeds=args.mode != "words")
    rerank = args.rerank
    if rerank is not None:
        from sentence_transformers_mirror.search.hits import judge

        rerank = judge(rerank)  # loaded once for all queries

    def ask(query: str) -> bool:
        how = chosen(args, "top_k", "mode", "weight", "fusion", "candidates")
        hits = index.search(query, threshold=threshold, where=where or None, rerank=rerank, **how)
        if is_read_by_people(args):
            _print_table(hits)
        else:
            _print_json(hits, {"query": query} if args.query in (None, STANDARD) else {})
        return bool(hits)

    if queries is None:
        return _converse(ask)
    return 0 if any([ask(query) for query in queries]) else NO_HITS


def _queries(query: str | None) -> list[str] | None:
    """What is asked; None where somebody sits at a terminal and asks."""
    if query is None:
        if not is_terminal(sys.stdin):
            raise ValueError("There is no query: pass one, or - to read them from standard input, one a line.")
        return None
    if query != STANDARD:
        return [query]
    try:
        text = "" if sys.stdin is None else sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise ValueError("Standard input is no UTF-8: convert it first, such as by iconv.") from None
    queries = list(filter(None, map(str.strip, text.splitlines())))
    if not queries:
        raise ValueError("There is no query in standard input: write one a line.")
    return queries


def _converse(ask: Callable[[str], bool]) -> int:
    """Ask what is typed, until the input ends."""
    with suppress(ImportError):  # Windows has none; where it is, a line can be edited and called back
        import readline  # noqa: F401
    prompt = "search> " if is_terminal(sys.stdout) else ""
    while True:
        try:
            query = input(prompt).strip()
        except EOFError:
            if prompt:
                print()
            return 0
        try:
            if query:
                ask(query)
        except ValueError as error:  # of this query; the next may do
            complain(f"error: {in_flags(str(error))}")


def _print_json(hits: list, asked: dict[str, str]) -> None:
    for hit in hits:
        told = {name: getattr(hit, name) for name in ("id", "score", "meaning", "words", "text", "metadata")}
        if hit.span is not None:
            told.update(passage=hit.passage, span=hit.span)
        print(json.dumps({**asked, **told}))


def _print_table(hits: list) -> None:
    import shutil

    rows = [
        (f"{hit.score:.3f}", hit.id, hit.text if hit.passage is None else hit.passage, hit.metadata or "")
        for hit in hits
    ]
    cells = [list(map(printable, row)) for row in rows]
    width = min(max((len(row[1]) for row in cells), default=0), 30)
    for score, item, text, metadata in cells:
        print(f"{score}  {item:{width}.30}  {text}  {metadata}".rstrip()[: shutil.get_terminal_size().columns])
    if not hits:
        remark("nothing was found")


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
        if threshold == "auto" or (threshold is not None and not threshold >= 0):
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
        values = where.setdefault(key, [])
        values.append(value)
        with suppress(ValueError, RecursionError):
            meant = json.loads(value)
            if not isinstance(meant, (list, dict)):  # which no condition can ask for
                values.append(meant)
    return where
