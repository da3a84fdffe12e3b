"""The command line, ``st-mirror``: the calls of the package as verbs.

Arguments are parsed by the standard library, and everything heavy is imported by the verb that needs it: help and
complaints about arguments come at once, and not after torch has been loaded.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import sys
from dataclasses import asdict

from sentence_transformers_mirror import __version__
from sentence_transformers_mirror.recipes import RECIPES, resolve

USAGE, UNEXPECTED, INTERRUPTED = 2, 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code: 0, 1 after a bug, 2 after bad input, 130 after Ctrl-C.

    Raises:
        SystemExit: With code 0 after ``--help`` and ``--version``, 2 after arguments that cannot be parsed.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")  # to stderr: with --json, stdout is for the object alone
    logging.getLogger("sentence_transformers_mirror").setLevel(logging.INFO)
    try:
        return args.verb(args)
    except KeyboardInterrupt:
        print("st-mirror: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        # What the package raises about input and machine; it names the cure.
        if isinstance(error, (ValueError, OSError, FloatingPointError)):
            message, code = str(error), USAGE
        else:
            message, code = f"{type(error).__name__}: {error} (a bug; --debug shows where)", UNEXPECTED
        print(f"st-mirror: error: {' '.join(message.split())}", file=sys.stderr)
        return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=int, default=42, help="of everything drawn at random (default: %(default)s)")
    common.add_argument("--json", action="store_true", help="print one JSON object instead of a summary")
    common.add_argument("--debug", action="store_true", help="show where an error comes from")

    parser = argparse.ArgumentParser(
        prog="st-mirror", description="Better sentence-transformers from raw text alone.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"st-mirror {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    tune = verbs.add_parser("tune", parents=[common], help="tune a model on a file of texts", allow_abbrev=False)
    tune.set_defaults(verb=_tune)
    tune.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    tune.add_argument("--texts", required=True, help="txt file (a text a line), csv, tsv, json, jsonl or parquet")
    tune.add_argument("--output", required=True, metavar="DIR", help="where to save the tuned model")
    tune.add_argument("--recipe", default="sentence", help=f"{', '.join(RECIPES)} (default: %(default)s)")
    tune.add_argument("--column", help="which column holds the texts, if there are several")
    tune.add_argument("--max-texts", type=int, default=20_000, metavar="N", help="sample more (default: %(default)s)")
    tune.add_argument("--prompt", help="put before each text, as the model is used with")
    tune.add_argument("--split-sentences", action="store_true", help="tune on the sentences of the texts")
    tune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a value of the recipe, such as learning_rate=1e-4; can be given several times",
    )

    quickstart = verbs.add_parser(
        "quickstart",
        parents=[common],
        help="tune the embedded model on Python's own documentation and search in it; takes two minutes",
        allow_abbrev=False,
    )
    quickstart.set_defaults(verb=_quickstart)
    quickstart.add_argument("--output", metavar="DIR", help="where to leave the tuned model and the index")
    return parser


def _tune(args: argparse.Namespace) -> int:
    recipe = resolve(args.recipe, **dict(map(_override, args.set)))
    if args.max_texts < 2:
        raise ValueError(f"--max-texts must be at least 2, not {args.max_texts}.")
    _quiet()
    from sentence_transformers_mirror.corpus import load_corpus
    from sentence_transformers_mirror.tuning import mirror_tune

    # Here and not by mirror_tune, which has no say in columns and sentences.
    texts, report = load_corpus(
        args.texts,
        column=args.column,
        max_texts=args.max_texts,
        seed=args.seed,
        split_sentences=args.split_sentences,
    )
    result = mirror_tune(
        args.model,
        texts,
        recipe,
        output_dir=args.output,
        max_texts=args.max_texts,
        seed=args.seed,
        prompt=args.prompt,
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


def _first_to_last(losses: list[float]) -> str:
    """Of ten steps each, or the half of a shorter run: single steps are noisy."""
    span = max(1, min(10, len(losses) // 2))
    if not losses:
        return "none"
    return f"{sum(losses[:span]) / span:.3f} -> {sum(losses[-span:]) / span:.3f} (first and last {span} steps)"


def _quickstart(args: argparse.Namespace) -> int:
    _quiet()
    from sentence_transformers_mirror import quickstart

    result = quickstart.run(args.output, seed=args.seed)
    if args.json:
        print(json.dumps(result))
        return 0
    print(
        f"Tuned the embedded model on {result['tuned_on']:,} of {result['sentences']:,} sentences of Python's "
        f"documentation: {result['steps']} steps, {result['seconds']:.0f} s in all.\n\n"
        f"Does the first sentence of a docstring find the rest of it? Mean reciprocal rank on {result['pairs']:,}\n"
        "docstrings of modules that were not tuned on:\n\n"
        f"{'':15}among all   among look-alikes"
    )
    for key, name in (("before", "before tuning"), ("after", "after tuning"), ("tfidf", "words (TF-IDF)")):
        print(f"{name:15}{result[key]['mrr']:9.3f}{result[key]['mrr_look_alikes']:20.3f}")
    for answer in result["hits"]:
        print(f"\n{answer['question']}")
        for hit in answer["hits"]:
            print(f"  {hit['score']:.2f}  {hit['text']}")
    if args.output is None:
        print("\nNothing was kept; `st-mirror quickstart --output DIR` keeps the model and the index.")
    else:
        print(f"\nKept in {args.output}: the tuned model in `model`, the index in `index`.")
    print("Now your own: st-mirror tune --model MODEL --texts FILE --output DIR")
    return 0


def _quiet() -> None:
    """Silence what other libraries report about every model they load, but keep their errors and the hub's bars."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
