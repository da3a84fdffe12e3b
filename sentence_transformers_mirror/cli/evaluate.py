"""``st-mirror evaluate``: how good a model is, with labels."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import DEVICE, HUB, argument, verb
from sentence_transformers_mirror.cli.checks import check_choices, check_output, chosen
from sentence_transformers_mirror.cli.messages import silence_others
from sentence_transformers_mirror.cli.streams import STANDARD, refuse_both


@verb(
    "score a model on a folder of labelled sets",
    argument("model", metavar="MODEL", help=HUB),
    argument("--data", required=True, metavar="DIR", help="folder of the sets, as published or as tsv"),
    argument("--suite", default="all", help="sts, words, linking or all (default: %(default)s)"),
    argument("--output", metavar="FILE", help="keep the scores with versions, machine and command, JSON; - prints"),
    DEVICE,
)
def evaluate(args: argparse.Namespace) -> int:
    refuse_both(args)
    check_choices(args, suite=("sts", "words", "linking", "all"))
    if not Path(args.data).is_dir():
        raise FileNotFoundError(f"There is no folder {args.data!r}: name the one that holds the labelled sets.")
    check_output(args.output)
    silence_others()
    from sentence_transformers_mirror.environment import environment
    from sentence_transformers_mirror.evidence import evaluation

    scores = evaluation.evaluate(args.model, args.data, args.suite)
    kept = {"environment": environment(), **chosen(args, "model", "suite"), "scores": list(map(asdict, scores))}
    if args.output == STANDARD:
        print(json.dumps(kept, indent=1))
        return 0
    if args.output is not None:
        Path(args.output).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(kept))
        return 0
    for score in scores:
        value = "absent" if score.value is None else f"{score.value:.2f}"
        print(f"{score.suite:8}  {score.name:18}  {score.metric:15}  {value:>7}  {score.size or '':>6}")
    return 0
