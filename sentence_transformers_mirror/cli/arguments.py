"""How verbs and their arguments are declared, and the arguments that several verbs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

DEVICES = ("cpu", "cuda", "mps", "xpu", "npu")
HUB = "folder, or name in the Hugging Face hub"
FILE = "txt file (a text a line), csv, tsv, json, jsonl or parquet"
READ = "or - for standard input: a text a line, or JSON where a flag names a column"
MANY: dict[str, Any] = {"action": "append", "default": []}  # options of a flag that can be given several times

Argument = tuple[str, dict[str, Any]]  # what `add_argument` takes
Run = Callable[[argparse.Namespace], int]  # from the parsed arguments to the exit code


@dataclass(frozen=True)
class Verb:
    run: Run
    help: str
    json: str  # what --json does
    arguments: tuple[Argument, ...]  # beyond those that all verbs have

    def add_to(self, verbs: argparse._SubParsersAction) -> None:
        """Make its parser, named as the function that runs it."""
        parser = verbs.add_parser(self.run.__name__, help=self.help, allow_abbrev=False)
        parser.set_defaults(run=self.run)
        parser.add_argument("--json", action="store_true", help=self.json)
        spoken = parser.add_mutually_exclusive_group()
        spoken.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
        spoken.add_argument("--verbose", action="store_true", help="show what the libraries below say, too")
        parser.add_argument("--debug", action="store_true", help="show where an error comes from")
        for name, options in self.arguments:
            parser.add_argument(name, **options)


def verb(
    help: str, *arguments: Argument, json: str = "print one JSON object instead of a summary"
) -> Callable[[Run], Verb]:
    return partial(Verb, help=help, json=json, arguments=arguments)


index_verb = partial(verb, json="print JSON, as is done into a pipe")


def argument(name: str, **options: Any) -> Argument:
    return name, options


SEED = argument("--seed", type=int, default=42, help="of everything drawn at random (default: %(default)s)")
DEVICE = argument("--device", help=f"{', '.join(DEVICES)}: where models compute (default: the fastest that is there)")
MODEL = argument("--model", required=True, help=HUB)
COLUMN = argument("--column", help="which column holds the texts, if there are several")
DIMENSIONS = argument("--dimensions", type=int, metavar="N", help="keep N dimensions of a Matryoshka model")
INDEX = argument("index", metavar="DIR", help="folder of the index")
BUILDER = argument("--model", help="the model that built the index (default: from where it was then)")


def entries(how: str = READ, **options: Any) -> list[Argument]:
    """What of a file, or of several, goes into an index; the options are those of ``--texts``."""
    return [
        argument("--texts", help=f"{FILE}; {how}", **options),
        argument("--column", help='which column holds the texts (default: "text")'),
        argument("--ids", metavar="COLUMN", help="which column holds the ids (default: they are numbered)"),
        argument("--metadata", metavar="COLUMN", help="keep a column; can be given several times", **MANY),
    ]
