"""Complaints about arguments before anything heavy is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentence_transformers_mirror.cli.arguments import DEVICES
from sentence_transformers_mirror.cli.streams import STANDARD
from sentence_transformers_mirror.printable import printable


def check_device(device: str | None) -> None:
    """Complain about a name; whether the device is there is seen when a model is loaded."""
    if device is not None and device not in DEVICES:
        hint = "; CUDA_VISIBLE_DEVICES picks one of several GPUs" if device.startswith("cuda:") else ""
        raise ValueError(f"There is no device {device!r}; --device is one of {', '.join(DEVICES)}{hint}.")


def check_texts(args: argparse.Namespace) -> None:
    """Complain about a file or its columns."""
    from sentence_transformers_mirror.texts.files import column_names, read_rows

    names, rows = column_names(Path(args.texts), read_rows(Path(args.texts), []))
    if not names and next(rows, None) is None:
        raise ValueError(f"There is no text in {args.texts!r}.")
    for flag, name in (("--column", args.column), ("a flag", args.title)):
        if name is not None and name not in names:
            there = ", ".join(map(printable, names))
            raise ValueError(f"{args.texts!r} has no column {name!r}, which {flag} names; the columns are {there}.")


def check_choices(args: argparse.Namespace, **choices: Iterable[str]) -> None:
    for name, known in choices.items():
        if (value := getattr(args, name)) not in known:
            raise ValueError(f"There is no {name} {value!r}; --{name} is one of {', '.join(known)}.")


def check_least(args: argparse.Namespace, least: int, *names: str) -> None:
    for name in names:
        if (value := getattr(args, name)) is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {value}.")


def check_output(output: str | None) -> None:
    """Make the folder of a file, so that nothing is computed that cannot be kept."""
    if output not in (None, STANDARD):
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab"):  # says what is wrong with it
            pass


def chosen(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What was chosen with flags that a function of the package has arguments for, of the same names."""
    return {name: getattr(args, name) for name in names}
