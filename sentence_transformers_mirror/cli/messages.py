"""What the command line says: in words of the shell, one line a complaint, and nothing of other libraries."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import re
import sys
from contextlib import nullcontext

from sentence_transformers_mirror import terminal
from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import printable

NO_HITS, USAGE, BROKEN_INDEX, UNEXPECTED, INTERRUPTED = 1, 2, 3, 70, 130  # exit codes

# What the package calls its arguments, as the shell does.
_FLAGS = {
    r"\bcolumn=": "--column",
    r"\boverwrite=True": "--force",
    r"\bkeep_worse=True": "--keep-worse",
    r"\bguard=True": "--guard",
    r"\bguard=None": "no --guard",
    r"\bPass max_texts\b": "Pass --max-texts",
    r"\bmax_texts\b": "--max-texts",
    r"\bsplit_sentences=True": "--split-sentences",
    r"\braise max_length\b": "pass --set max_length=N",
    r"pass SearchIndex\.load\(path, model=\.\.\.\)": "pass --model",
    r"load it without a model, call rebuild\(model\), and save it": "index the texts again",
    r"\bpass dataset\[column\]": "name it with --column",
    r"\bdimensions must be\b": "--dimensions must be",
    r"\btop_k\b": "--top-k",
    r"\bmode='(\w+)'": r"--mode \1",
    r"\b(build|index again) with passages=": r"\1 with --passages ",
    r"\bpassages is the number\b": "--passages is the number",
    r"\bcandidates must be\b": "--candidates must be",
    r"\bweight (says|is the share)\b": r"--weight \1",
}


def in_flags(message: str) -> str:
    for argument, flag in _FLAGS.items():
        message = re.sub(rf"(?<!-){argument}", flag, message)  # not what is a flag already
    return message


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


def complain(message: str) -> None:
    if sys.stderr is not None:
        print(f"st-mirror: {printable(' '.join(message.split()))}", file=sys.stderr)


def remark(message: str) -> None:
    """Say what is no error; --quiet does without."""
    if logging.getLogger("sentence_transformers_mirror").isEnabledFor(logging.WARNING):
        complain(message)


class _Handler(logging.StreamHandler):
    """Writes to standard error, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")
        with nullcontext() if bars is None else bars.tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """What is logged may quote data; what warns is a complaint."""
        prefix = "st-mirror: " if record.levelno >= logging.WARNING else ""
        return prefix + "\n".join(map(printable, in_flags(super().format(record)).splitlines()))


def log(level: int) -> None:
    """Show what is logged from a level on, and not on standard output: with --json, that is for the object alone."""
    logging.basicConfig(format="%(message)s", handlers=[_Handler()])
    logging.getLogger("sentence_transformers_mirror").setLevel(level)


def is_read_by_people(args: argparse.Namespace) -> bool:
    """Whether results are for a terminal, and not JSON."""
    return not args.json and terminal.is_terminal(sys.stdout)


def tell(args: argparse.Namespace, facts: dict, words: str) -> None:
    print("\n".join(map(printable, words.splitlines())) if is_read_by_people(args) else json.dumps(facts))


def silence_others() -> None:
    """Silence what other libraries report of their work, but keep their errors and the hub's bars of downloads."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars

    terminal.silence()
    if not terminal.libraries:
        datasets.disable_progress_bars()
    if not terminal.bars:
        disable_progress_bars()
