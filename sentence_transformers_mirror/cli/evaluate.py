"""``st-mirror evaluate``: score a model on labelled sets."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import add_device, add_verb, check_choice, check_output
from sentence_transformers_mirror.cli.messages import silence_others
from sentence_transformers_mirror.cli.streams import STANDARD, refuse_both

_SUITES = ["sts", "words", "linking", "all"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "evaluate", run, "score a model on a folder of labelled sets")
    parser.add_argument("model", metavar="MODEL", help="folder, or name in the Hugging Face hub")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the sets, as published or as tsv")
    parser.add_argument("--suite", default="all", help="sts, words, linking or all (default: %(default)s)")
    parser.add_argument(
        "--output", metavar="FILE", help="keep the scores with versions, machine and command, JSON; - prints"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    refuse_both(args)
    check_choice("--suite", args.suite, _SUITES)
    if not Path(args.data).is_dir():
        raise FileNotFoundError(f"There is no folder {args.data!r}: name the one that holds the labelled sets.")
    check_output(args.output)
    silence_others()
    from sentence_transformers_mirror.environment import environment
    from sentence_transformers_mirror.evidence.evaluation import evaluate

    scores = evaluate(args.model, args.data, args.suite)
    kept = {
        "environment": environment(),
        "model": args.model,
        "suite": args.suite,
        "scores": [asdict(score) for score in scores],
    }
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
