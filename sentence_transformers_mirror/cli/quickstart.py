"""``st-mirror quickstart``: from raw text to a search, to see it done."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from typing import Any

from sentence_transformers_mirror.cli.arguments import DEVICE, SEED, argument, verb
from sentence_transformers_mirror.cli.messages import silence_others


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
