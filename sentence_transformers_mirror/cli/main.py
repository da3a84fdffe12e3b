"""``st-mirror``: the calls of the package as verbs.

Arguments are parsed by the standard library, and everything heavy is imported by the verb that needs it: help and
complaints about arguments come at once, and not after torch has been loaded.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from sentence_transformers_mirror import __version__
from sentence_transformers_mirror.cli.add import add
from sentence_transformers_mirror.cli.checks import check_device
from sentence_transformers_mirror.cli.compare import compare
from sentence_transformers_mirror.cli.demo import demo
from sentence_transformers_mirror.cli.encode import encode
from sentence_transformers_mirror.cli.evaluate import evaluate
from sentence_transformers_mirror.cli.export import export
from sentence_transformers_mirror.cli.index import index
from sentence_transformers_mirror.cli.info import info
from sentence_transformers_mirror.cli.messages import INTERRUPTED, USAGE, complain, log, told
from sentence_transformers_mirror.cli.quickstart import quickstart
from sentence_transformers_mirror.cli.search import search
from sentence_transformers_mirror.cli.streams import texts_from_standard_input
from sentence_transformers_mirror.cli.tune import tune
from sentence_transformers_mirror.cli.verify import verify
from sentence_transformers_mirror.models import placed_on
from sentence_transformers_mirror.terminal import volume

# As help lists them.
_VERBS = (tune, quickstart, evaluate, compare, encode, index, export, add, search, info, verify, demo)
_SHELLS = ("bash", "zsh", "fish", "tcsh")


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code: 0, 1 after a search without hits, 2 after bad input, 3 if an index is broken or no index, 70
        after a bug, 130 after Ctrl-C.

    Raises:
        SystemExit: With code 0 after ``--help``, ``--version`` and ``--completion``, 2 after arguments that cannot be
            parsed.
    """
    args = parser_of_all().parse_args(argv)
    log(logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO)
    try:
        device = getattr(args, "device", None)
        check_device(device)
        with volume(args.quiet, args.verbose), placed_on(device), texts_from_standard_input(args):
            code = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads the output has had enough; at its end Python would try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain("error: the output was closed before all of it was written.")
        return USAGE
    except Exception as error:
        if args.debug:
            raise
        message, code = told(error)
        complain(f"error: {message}")
        return code


def parser_of_all() -> argparse.ArgumentParser:
    """The parser of the command line, with all verbs."""
    parser = argparse.ArgumentParser(
        prog="st-mirror", description="Better sentence-transformers from raw text alone.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"st-mirror {__version__}")
    parser.add_argument(
        "--completion",
        action=_Completion,
        choices=_SHELLS,
        metavar="SHELL",
        help=f"print what {', '.join(_SHELLS[:-1])} or {_SHELLS[-1]} reads to complete a command (needs shtab)",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add_to(verbs)
    return parser


class _Completion(argparse.Action):
    """Prints what a shell reads to complete verbs, flags and files; shtab, which writes it, is imported here alone."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab: pip install 'sentence-transformers-mirror[completion]'")
        (verbs,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        for action in (action for verb in verbs.choices.values() for action in verb._actions):
            if action.metavar == "DIR" or action.dest in ("model", "before", "after", "rerank"):
                action.complete = shtab.DIRECTORY  # which shtab looks for
            elif action.metavar == "FILE" or action.dest == "texts":
                action.complete = shtab.FILE
        try:
            print(shtab.complete(parser, given[1]), flush=True)
        except OSError as error:
            sys.stdout = None  # what is left in it would fail again at the end
            parser.error(f"standard output cannot be written: {error.strerror}; name another file")
        parser.exit()
