"""``st-mirror compare``: is a tuned model better, on texts without labels?"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import (
    READ,
    add_device,
    add_seed,
    add_verb,
    check_choice,
    check_output,
    check_texts,
)
from sentence_transformers_mirror.cli.messages import silence_others
from sentence_transformers_mirror.cli.streams import STANDARD, file_or_standard_output, refuse_both

_STRUCTURES = ["auto", "first", "title", "halves", "neighbours", "single"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "compare", run, "say whether a tuned model is better on texts without labels")
    add_seed(parser)
    add_device(parser)
    parser.add_argument("before", metavar="BEFORE", help="folder, or name in the Hugging Face hub")
    parser.add_argument("after", metavar="AFTER", help="folder, or name in the Hugging Face hub")
    parser.add_argument(
        "--texts", required=True, help=f"documents that were not tuned on: a file, as for tune; {READ}"
    )
    parser.add_argument("--column", help="which column holds the texts, if there are several")
    parser.add_argument(
        "--title", metavar="COLUMN", help="which column holds their titles; --structure title asks them"
    )
    parser.add_argument(
        "--structure", default="auto", help="auto, first, title, halves, neighbours or single (default: %(default)s)"
    )
    parser.add_argument("--labels", metavar="DIR", help="folder of labelled sets, for the report")
    parser.add_argument(
        "--output", metavar="FILE", help="write a report, HTML (needs matplotlib, the extra `plot`); - prints"
    )
    parser.add_argument("--plots", metavar="DIR", help="write the pictures of the report, PNG")


def run(args: argparse.Namespace) -> int:
    refuse_both(args)
    if args.output is None and (args.labels or args.plots):
        raise ValueError("--labels and --plots are for the report: add --output report.html.")
    check_choice("--structure", args.structure, _STRUCTURES)
    check_texts(args, args.title)
    check_output(args.output)
    silence_others()
    from sentence_transformers_mirror.evidence.verdict import compare
    from sentence_transformers_mirror.texts.corpus import load_corpus

    dataset = load_corpus(args.texts, column=args.column, title=args.title)[0]
    texts = dataset["text"]
    if args.title is not None and "title" in dataset.column_names:
        texts = list(zip(dataset["title"], texts, strict=True))
    if args.output is None:
        found = compare(args.before, args.after, texts, structure=args.structure, seed=args.seed)
    else:
        from sentence_transformers_mirror.evidence.report import write_report
        from sentence_transformers_mirror.training.saving import HISTORY

        history = Path(args.after, HISTORY)
        losses = _losses(history) if history.is_file() else []
        with file_or_standard_output(args.output) as output:
            found = write_report(
                args.before,
                args.after,
                texts,
                output,
                labels=args.labels,
                losses=losses,
                plots=args.plots,
                structure=args.structure,
                seed=args.seed,
            )
        if args.output == STANDARD:
            return 0
    if args.json:
        print(json.dumps(asdict(found)))
        return 0
    print(found.summary())
    if args.output is not None:
        print(f"\nreport: {args.output}")
    return 0


def _losses(history: Path) -> list[float]:
    """Of a tuned model, for the report; none if the file was written by something else."""
    try:
        losses = json.loads(history.read_text(encoding="utf-8"))["losses"]
        return [float(loss) for loss in losses]
    except (ValueError, TypeError, KeyError, RecursionError):
        logging.getLogger(__name__).warning(f"{str(history)!r} holds no losses; the report goes without.")
        return []
