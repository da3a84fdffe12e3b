"""``st-mirror tune``: tune a model on a file of texts."""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from sentence_transformers_mirror.cli.arguments import add_seed, add_verb, check_texts
from sentence_transformers_mirror.cli.messages import INTERRUPTED, quiet
from sentence_transformers_mirror.training.recipes import RECIPES, resolve

if TYPE_CHECKING:
    from sentence_transformers_mirror.training.tuning import TuningResult


def add_parser(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(verbs, "tune", run, "tune a model on a file of texts")
    add_seed(parser)
    parser.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    parser.add_argument(
        "--texts",
        required=True,
        help="txt file (a text a line), csv, tsv, json, jsonl or parquet; or Markdown, reStructuredText or HTML, a "
        "file or a folder of them, where a heading is the title of what stands below it",
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
    quiet()
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
        print(json.dumps({**asdict(result), "dropped": report.dropped, "read": report.read, "model": args.output}))
    else:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items()) or "none"
        print(
            f"{'Stopped by Ctrl-C after' if result.interrupted else 'Tuned'} {result.steps} steps in "
            f"{result.seconds:.0f} s ({result.precision}, recipe {args.recipe})\n"
            f"  loss       {_first_to_last(result.losses)}\n"
            f"  texts      {report.kept:,} of {report.read:,} (left out: {left_out})\n"
            f"  truncated  {result.truncated:.1%} of the texts are longer than {result.recipe.max_length} tokens\n"
            f"  guard      {_guarded(result)}\n"
            f"  saved to   {args.output}\n\n"
            f"Use it:\n  from sentence_transformers import SentenceTransformer\n"
            f"  model = SentenceTransformer({args.output!r})"
        )
    return INTERRUPTED if result.interrupted else 0


def _guarded(result: TuningResult) -> str:
    found = result.evidence
    if found is None:
        return "none (the texts are single sentences, or fewer than 500 to 700)" if result.steps else "none"
    averaged = ", averaged with the original ones," if result.averaged else ""
    kept = f"the weights of step {result.kept_step}{averaged} are kept"
    if not result.kept_step:
        kept = "the original weights are back"
    return (
        f"{found.verdict} on {found.documents} texts set aside: mean reciprocal rank {found.difference:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f}); {kept}; measuring took {result.guard_seconds:.0f} s"
    )


def _override(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f"--set takes NAME=VALUE with a number, True, False or None, not {text!r}.") from None


def _first_to_last(losses: list[float]) -> str:
    """Of ten steps each, or the half of a shorter run: single steps are noisy."""
    span = max(1, min(10, len(losses) // 2))
    if not losses:
        return "none"
    return f"{sum(losses[:span]) / span:.3f} -> {sum(losses[-span:]) / span:.3f} (first and last {span} steps)"
