"""What the command line says: in words of the shell, one line a complaint, and nothing of other libraries."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from contextlib import nullcontext

from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.terminal import is_terminal

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
        message = re.sub(argument, flag, message)
    return message


def complain(message: str) -> None:
    if sys.stderr is not None:
        print(f"st-mirror: {printable(' '.join(message.split()))}", file=sys.stderr)


def remark(message: str) -> None:
    """Say what is no error; --quiet does without."""
    if logging.getLogger("sentence_transformers_mirror").isEnabledFor(logging.WARNING):
        complain(message)


class Handler(logging.StreamHandler):
    """Writes to standard error, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")
        with nullcontext() if bars is None else bars.tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)


class Printable(logging.Formatter):
    """What is logged may quote data; what warns is a complaint."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "st-mirror: " if record.levelno >= logging.WARNING else ""
        return prefix + "\n".join(map(printable, in_flags(super().format(record)).splitlines()))


def tell_skipped(skipped: list[str]) -> None:
    if skipped:
        remark(f"{len(skipped):,} rows have no text and are left out, first {skipped[0]}")


def tell(args: argparse.Namespace, facts: dict, words: str) -> None:
    print(
        json.dumps(facts)
        if args.json or not is_terminal(sys.stdout)
        else "\n".join(map(printable, words.splitlines()))
    )


def silence_others() -> None:
    """Silence what other libraries report of their work, but keep their errors and the hub's bars of downloads."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars

    from sentence_transformers_mirror import terminal
    from sentence_transformers_mirror.quiet import silence

    silence()
    if not terminal.libraries:
        datasets.disable_progress_bars()
    if not terminal.bars:
        disable_progress_bars()
