"""``st-mirror``: the calls of the package as verbs.

Arguments are parsed by the standard library, and everything heavy is imported by the verb that needs it: help and
complaints about arguments come at once, and not after torch has been loaded.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys

from sentence_transformers_mirror import __version__
from sentence_transformers_mirror.cli import (
    add,
    compare,
    demo,
    encode,
    evaluate,
    export,
    index,
    info,
    quickstart,
    search,
    tune,
    verify,
)
from sentence_transformers_mirror.cli.arguments import check_device
from sentence_transformers_mirror.cli.completion import SHELLS, Completion
from sentence_transformers_mirror.cli.messages import (
    BROKEN_INDEX,
    INTERRUPTED,
    UNEXPECTED,
    USAGE,
    Handler,
    Printable,
    complain,
    in_flags,
)
from sentence_transformers_mirror.cli.streams import texts_from_standard_input
from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.models import placed_on
from sentence_transformers_mirror.terminal import volume

_VERBS = (
    tune,
    quickstart,
    evaluate,
    compare,
    encode,
    index,
    export,
    add,
    search,
    info,
    verify,
    demo,
)  # as help lists them


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
    handler = Handler()  # to stderr: with --json, stdout is for the object alone
    handler.setFormatter(Printable("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("sentence_transformers_mirror").setLevel(_level(args))
    try:
        device = getattr(args, "device", None)
        check_device(device)
        with volume(args.quiet, args.verbose), placed_on(device), texts_from_standard_input(args):
            code = args.verb(args)
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


def _level(args: argparse.Namespace) -> int:
    return logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO


def told(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code: the one place that all errors pass."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"The output could not be written to where it leads: {error.strerror}.", USAGE
    # What the package raises about input and machine; it names the cure.
    if isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        return in_flags(str(error)), BROKEN_INDEX if isinstance(error, BrokenIndexError) else USAGE
    if isinstance(error, MemoryError):
        return "there is not enough memory: give fewer texts.", USAGE
    return f"{type(error).__name__}: {error} (a bug; --debug shows where)", UNEXPECTED


def parser_of_all() -> argparse.ArgumentParser:
    """The parser of the command line, with all verbs."""
    parser = argparse.ArgumentParser(
        prog="st-mirror", description="Better sentence-transformers from raw text alone.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"st-mirror {__version__}")
    parser.add_argument(
        "--completion",
        action=Completion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print what {', '.join(SHELLS[:-1])} or {SHELLS[-1]} reads to complete a command (needs shtab)",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in _VERBS:
        verb.add_parser(verbs)
    return parser
