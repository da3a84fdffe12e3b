"""``st-mirror compare``: whether tuning helped, without labels."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

from sentence_transformers_mirror.cli.arguments import COLUMN, DEVICE, HUB, READ, SEED, argument, verb
from sentence_transformers_mirror.cli.checks import check_choices, check_output, check_texts, chosen
from sentence_transformers_mirror.cli.messages import silence_others
from sentence_transformers_mirror.cli.streams import STANDARD, file_or_standard_output, refuse_both


@verb(
    "say whether a tuned model is better on texts without labels",
    SEED,
    DEVICE,
    argument("before", metavar="BEFORE", help=HUB),
    argument("after", metavar="AFTER", help=HUB),
    argument("--texts", required=True, help=f"documents that were not tuned on: a file, as for tune; {READ}"),
    COLUMN,
    argument("--title", metavar="COLUMN", help="which column holds their titles; --structure title asks them"),
    argument(
        "--structure", default="auto", help="auto, first, title, halves, neighbours or single (default: %(default)s)"
    ),
    argument("--labels", metavar="DIR", help="folder of labelled sets, for the report"),
    argument("--output", metavar="FILE", help="write a report, HTML (needs matplotlib, the extra `plot`); - prints"),
    argument("--plots", metavar="DIR", help="write the pictures of the report, PNG"),
)
def compare(args: argparse.Namespace) -> int:
    refuse_both(args)
    if args.output is None and (args.labels or args.plots):
        raise ValueError("--labels and --plots are for the report: add --output report.html.")
    check_choices(args, structure=("auto", "first", "title", "halves", "neighbours", "single"))
    check_texts(args)
    check_output(args.output)
    silence_others()
    from sentence_transformers_mirror.evidence import verdict
    from sentence_transformers_mirror.texts.corpus import load_corpus

    dataset = load_corpus(args.texts, **chosen(args, "column", "title"))[0]
    texts = dataset["text"]
    if args.title is not None and "title" in dataset.column_names:
        texts = list(zip(dataset["title"], texts, strict=True))
    asked = args.before, args.after, texts
    if args.output is None:
        found = verdict.compare(*asked, **chosen(args, "structure", "seed"))
    else:
        from sentence_transformers_mirror.evidence.report import write_report
        from sentence_transformers_mirror.training.saving import HISTORY

        losses = _losses(Path(args.after, HISTORY))
        with file_or_standard_output(args.output) as output:
            found = write_report(*asked, output, losses=losses, **chosen(args, "labels", "plots", "structure", "seed"))
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
    """Of a tuned model, for the report; none if there is no such file, or it was written by something else."""
    if not history.is_file():
        return []
    try:
        return [float(loss) for loss in json.loads(history.read_text(encoding="utf-8"))["losses"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        logging.getLogger(__name__).warning(f"{str(history)!r} holds no losses; the report goes without.")
        return []
