"""``st-mirror tune``: tune a model on a file of texts."""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import replace

from sentence_transformers_mirror.cli.arguments import READ, add_device, add_seed, add_verb, check_texts
from sentence_transformers_mirror.cli.messages import INTERRUPTED, silence_others
from sentence_transformers_mirror.training.recipes import RECIPES, resolve


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "tune", run, "tune a model on a file of texts")
    add_seed(parser)
    parser.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    add_device(parser)
    parser.add_argument(
        "--texts",
        required=True,
        help="txt file (a text a line), csv, tsv, json, jsonl or parquet; or Markdown, reStructuredText or HTML, a "
        f"file or a folder of them, where a heading is the title of what stands below it; {READ}",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="where to save the tuned model")
    parser.add_argument("--force", action="store_true", help="replace a model that is in --output")
    parser.add_argument("--recipe", default="sentence", help=f"{', '.join(RECIPES)} (default: %(default)s)")
    parser.add_argument("--column", help="which column holds the texts, if there are several")
    parser.add_argument("--title", metavar="COLUMN", help='which column holds their titles (default: "title", if any)')
    parser.add_argument(
        "--max-texts", type=int, default=20_000, metavar="N", help="sample more (default: %(default)s)"
    )
    parser.add_argument("--prompt", help="put before each text, as the model is used with")
    parser.add_argument("--split-sentences", action="store_true", help="tune on the sentences of the texts")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a value of the recipe, such as learning_rate=1e-4; can be given several times",
    )
    parser.add_argument(
        "--guard",
        action=argparse.BooleanOptionalAction,
        help="set texts aside to see whether tuning helps, and take it back if it harms (default: where texts are of "
        "several sentences)",
    )
    parser.add_argument("--keep-worse", action="store_true", help="keep a tuned model that the guard found worse")


def run(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.training.saving import refuse_model

    recipe = resolve(args.recipe, **dict(map(_override, args.set)))
    if args.max_texts < 2:
        raise ValueError(f"--max-texts must be at least 2, not {args.max_texts}.")
    check_texts(args, args.title)
    refuse_model(args.output, args.force)
    silence_others()
    from sentence_transformers_mirror.texts.corpus import load_corpus
    from sentence_transformers_mirror.training.tuning import mirror_tune

    # Here and not by mirror_tune, which has no say in columns.
    texts, report = load_corpus(
        args.texts,
        column=args.column,
        title=args.title,
        max_texts=args.max_texts,
        seed=args.seed,
    )
    result = mirror_tune(
        args.model,
        texts,
        recipe,
        output_dir=args.output,
        max_texts=args.max_texts,
        seed=args.seed,
        prompt=args.prompt,
        guard=args.guard,
        keep_worse=args.keep_worse,
        overwrite=args.force,
        split_sentences=args.split_sentences,
    )
    if args.json:
        print(json.dumps({**result.as_dict(), "dropped": report.dropped, "read": report.read, "model": args.output}))
    else:
        print(
            f"{replace(result, dropped=report.dropped).summary()}\n"
            f"  recipe     {args.recipe}, on {report.kept:,} of {report.read:,} rows\n"
            f"  saved to   {args.output}\n\n"
            f"Use it:\n  from sentence_transformers import SentenceTransformer\n"
            f"  model = SentenceTransformer({args.output!r})"
        )
    return INTERRUPTED if result.interrupted else 0


def _override(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f"--set takes NAME=VALUE with a number, True, False or None, not {text!r}.") from None
