"""The command line: a module for each verb, with its arguments and its run together."""

from __future__ import annotations

from sentence_transformers_mirror.cli.main import main
from sentence_transformers_mirror.cli.messages import BROKEN_INDEX, INTERRUPTED, NO_HITS, UNEXPECTED, USAGE

__all__ = ["BROKEN_INDEX", "INTERRUPTED", "NO_HITS", "UNEXPECTED", "USAGE", "main"]
