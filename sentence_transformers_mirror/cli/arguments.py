"""Arguments that several verbs have, and complaints about them before anything heavy is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from sentence_transformers_mirror.cli.streams import STANDARD
from sentence_transformers_mirror.printable import printable

DEVICES = ("cpu", "cuda", "mps", "xpu", "npu")
READ = "or - for standard input: a text a line, or JSON where a flag names a column"


def add_verb(
    verbs: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    json: str = "print one JSON object instead of a summary",
) -> argparse.ArgumentParser:
    """The parser of a verb, with the flags that all have.

    Args:
        run: A function from the parsed arguments to the exit code.
        help: What the verb does.
        json: What ``--json`` does.
    """
    parser = verbs.add_parser(name, help=help, allow_abbrev=False)
    parser.set_defaults(verb=run)
    parser.add_argument("--json", action="store_true", help=json)
    spoken = parser.add_mutually_exclusive_group()
    spoken.add_argument("--quiet", action="store_true", help="say nothing but results and errors")
    spoken.add_argument("--verbose", action="store_true", help="show what the libraries below say, too")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def add_index_verb(
    verbs: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int], help: str
) -> argparse.ArgumentParser:
    """The parser of a verb about an index, which prints JSON into a pipe."""
    return add_verb(verbs, name, run, help, json="print JSON, as is done into a pipe")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=42, help="of everything drawn at random (default: %(default)s)")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        help=f"{', '.join(DEVICES)}: where models compute (default: the fastest that is there)",
    )


def check_device(device: str | None) -> None:
    """Complain about a name; whether the device is there is seen when a model is loaded."""
    if device is not None and device not in DEVICES:
        several = "; CUDA_VISIBLE_DEVICES picks one of several GPUs" if device.startswith("cuda:") else ""
        raise ValueError(f"There is no device {device!r}; --device is one of {', '.join(DEVICES)}{several}.")


def add_entries(parser: argparse.ArgumentParser, several: bool = False, required: bool = True) -> None:
    """What of a file, or of several, goes into an index."""
    help = "txt file (a text a line), csv, tsv, json, jsonl or parquet"
    help += "; several, a pattern in quotation marks, or a folder" if several else f"; {READ}"
    parser.add_argument("--texts", required=required, nargs="+" if several else None, help=help)
    parser.add_argument("--column", help='which column holds the texts (default: "text")')
    parser.add_argument("--ids", metavar="COLUMN", help="which column holds the ids (default: they are numbered)")
    parser.add_argument(
        "--metadata", metavar="COLUMN", action="append", default=[], help="keep a column; can be given several times"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="the model that built the index (default: from where it was then)")
    add_device(parser)


def add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="DIR", help="folder of the index")


def check_texts(args: argparse.Namespace, *columns: str | None) -> None:
    """Complain about a file or its columns before anything heavy is loaded."""
    from sentence_transformers_mirror.texts.files import column_names, read_rows

    names, rows = column_names(Path(args.texts), read_rows(Path(args.texts), []))
    if not names and next(rows, None) is None:
        raise ValueError(f"There is no text in {args.texts!r}.")
    for flag, name in (("--column", args.column), *(("a flag", column) for column in columns)):
        if name is not None and name not in names:
            there = ", ".join(map(printable, names))
            raise ValueError(f"{args.texts!r} has no column {name!r}, which {flag} names; the columns are {there}.")


def check_choice(flag: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"There is no {flag[2:]} {value!r}; {flag} is one of {', '.join(choices)}.")


def check_output(output: str | None) -> None:
    """Make the folder of a file, so that nothing is computed that cannot be kept."""
    if output not in (None, STANDARD):
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab"):  # says what is wrong with it
            pass
