"""``st-mirror --completion SHELL``: what a shell reads to complete verbs, flags and files."""

from __future__ import annotations

import argparse
import sys
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FOLDERS = ("index", "model", "before", "after", "rerank")


class Completion(argparse.Action):
    """Prints the script and ends; shtab, which writes it, is imported here alone."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--completion needs shtab: pip install 'sentence-transformers-mirror[completion]'")
        for verb in _verbs(parser):
            for action in verb._actions:
                if action.metavar == "DIR" or action.dest in _FOLDERS:
                    action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # which shtab looks for
                elif action.metavar == "FILE" or action.dest == "texts":
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        try:
            print(shtab.complete(parser, given[1]), flush=True)
        except OSError as error:
            sys.stdout = None  # what is left in it would fail again at the end
            parser.error(f"standard output cannot be written: {error.strerror}; name another file")
        parser.exit()


def _verbs(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the verbs."""
    return [
        verb for one in parser._actions if isinstance(one, argparse._SubParsersAction) for verb in one.choices.values()
    ]
