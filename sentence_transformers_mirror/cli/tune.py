"""``st-mirror tune``: tune a model on a file of texts."""

from __future__ import annotations

import argparse
import ast
import json
from dataclasses import replace

from sentence_transformers_mirror.cli.arguments import COLUMN, DEVICE, FILE, MANY, MODEL, READ, SEED, argument, verb
from sentence_transformers_mirror.cli.checks import check_least, check_texts, chosen
from sentence_transformers_mirror.cli.messages import INTERRUPTED, silence_others
from sentence_transformers_mirror.training.recipes import RECIPES, resolve


@verb(
    "tune a model on a file of texts",
    SEED,
    MODEL,
    DEVICE,
    argument(
        "--texts",
        required=True,
        help=f"{FILE}; or Markdown, reStructuredText or HTML, a file or a folder of them, where a heading is the "
        f"title of what stands below it; {READ}",
    ),
    argument("--output", required=True, metavar="DIR", help="where to save the tuned model"),
    argument("--force", action="store_true", help="replace a model that is in --output"),
    argument("--recipe", default="sentence", help=f"{', '.join(RECIPES)} (default: %(default)s)"),
    COLUMN,
    argument("--title", metavar="COLUMN", help='which column holds their titles (default: "title", if any)'),
    argument("--max-texts", type=int, default=20_000, metavar="N", help="sample more (default: %(default)s)"),
    argument("--prompt", help="put before each text, as the model is used with"),
    argument("--split-sentences", action="store_true", help="tune on the sentences of the texts"),
    argument(
        "--set",
        **MANY,
        metavar="NAME=VALUE",
        help="replace a value of the recipe, such as learning_rate=1e-4; can be given several times",
    ),
    argument(
        "--guard",
        action=argparse.BooleanOptionalAction,
        help="set texts aside to see whether tuning helps, and take it back if it harms (default: where texts are of "
        "several sentences)",
    ),
    argument("--keep-worse", action="store_true", help="keep a tuned model that the guard found worse"),
)
def tune(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.training.saving import refuse_model

    recipe = resolve(args.recipe, **dict(map(_override, args.set)))
    check_least(args, 2, "max_texts")
    check_texts(args)
    refuse_model(args.output, args.force)
    silence_others()
    from sentence_transformers_mirror.texts.corpus import load_corpus
    from sentence_transformers_mirror.training.tuning import mirror_tune

    # Here and not by mirror_tune, which has no say in columns.
    texts, report = load_corpus(args.texts, **chosen(args, "column", "title", "max_texts", "seed"))
    result = mirror_tune(
        args.model,
        texts,
        recipe,
        output_dir=args.output,
        overwrite=args.force,
        **chosen(args, "max_texts", "seed", "prompt", "guard", "keep_worse", "split_sentences"),
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
    name, _, value = text.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f"--set takes NAME=VALUE with a number, True, False or None, not {text!r}.") from None
