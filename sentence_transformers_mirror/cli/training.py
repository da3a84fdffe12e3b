"""``st-mirror tune`` and ``quickstart``: tune a model on a file of texts, or see it done from raw text to a search."""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
from dataclasses import replace
from typing import Any

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


@verb(
    "tune the embedded model on Python's own documentation and search in it; takes two minutes",
    SEED,
    DEVICE,
    argument("--output", metavar="DIR", help="where to leave the tuned model and the index"),
    argument("--force", action="store_true", help="replace what is in --output"),
)
def quickstart(args: argparse.Namespace) -> int:
    silence_others()
    from sentence_transformers_mirror import quickstart

    result = quickstart.run(args.output, seed=args.seed, overwrite=args.force)
    print(json.dumps(result) if args.json else told(result, args.output))
    return 0


def told(result: dict[str, Any], output: str | None) -> str:
    """What a run found, for people, and what to do next."""
    from sentence_transformers_mirror.quickstart import SHOWN

    found, asked = result["evidence"], result["questions"]
    lines = [
        f"Tuned the embedded model for search on {result['tuned_on']:,} of {result['docstrings']:,} docstrings of "
        f"Python's library: {result['steps']} steps,\n{result['seconds']:.0f} s in all.\n\n"
        f"Does the first sentence of a docstring find the rest of it? Mean reciprocal rank on {result['pairs']:,}\n"
        "docstrings of modules that were not tuned on:\n\n"
        f"{'':15}among all   among look-alikes"
    ]
    for key, name in (("before", "before tuning"), ("after", "after tuning"), ("tfidf", "words (TF-IDF)")):
        lines.append(f"{name:15}{result[key]['mrr']:9.3f}{result[key]['mrr_look_alikes']:20.3f}")
    right = {mode: sum(one["ranks"][mode] in (1, 2, 3) for one in asked) for mode in asked[0]["ranks"]}
    lines += [
        f"\nVerdict: {found['verdict']} ({found['difference']:+.3f}, 95% {found['low']:+.3f} to {found['high']:+.3f})",
        f"\nOf {len(asked)} questions {right['meaning']} find a right answer among the first three by meaning, "
        f"{right['words']} by words and {right['both']} by both; the first {SHOWN}, by both:",
    ]
    for answer in asked[:SHOWN]:
        lines += [f"\n{answer['question']}", *(f"  {hit['score']:.2f}  {hit['text']}" for hit in answer["hits"])]
    if output is None:
        lines.append("\nNothing was kept; `st-mirror quickstart --output DIR` keeps the model and the index.")
    else:
        index = shlex.quote(os.path.join(output, "index"))
        lines.append(
            f"\nKept in {output}: the tuned model in `model`, the index in `index`. Ask it more:\n"
            f'  st-mirror search {index} "How do I sort a list?" --mode both\n'
            f"  st-mirror demo {index}"
        )
    return "\n".join([*lines, "Now your own: st-mirror tune --model MODEL --texts FILE --output DIR"])
