"""What the guard costs: share of the time that measuring takes, on texts of three lengths.

The guard sets texts aside until measuring them would take a tenth of the time that tuning takes, by the characters
read; this says what share it takes by the clock.
"""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.common import MODELS, add_data, keep, model_path, parser, read_table
from benchmarks.markdown import source, table
from benchmarks.verdict import paragraphs
from sentence_transformers_mirror import mirror_tune


def corpora(data: Path) -> dict[str, list[str]]:
    """About two sentences, a paragraph, and many paragraphs a text."""
    found = paragraphs(data)
    abstracts = [row["text"] for row in read_table(data / "retrieval/cranfield.docs.tsv.gz") if row["text"].strip()]
    draw = random.Random(0)
    return {
        "short paragraphs": [text for text in found if len(text) < 250],
        "abstracts": abstracts,
        "long documents": [" ".join(draw.sample(found, 20)) for _ in range(1_400)],
    }


def measure(model: str, texts: list[str], max_texts: int) -> dict[str, object]:
    tuned = mirror_tune(model_path(model), texts, max_texts=max_texts, guard=True)
    return {
        "tuned on": tuned.texts,
        "set aside and measured": tuned.evidence.documents,
        "seconds": round(tuned.seconds, 1),
        "of these the guard's": round(tuned.guard_seconds, 1),
        "share": f"{tuned.guard_seconds / tuned.seconds:.1%}",
    }


def section(kept: dict) -> str:
    return (
        "## What the guard costs\n\nThe embedded model, recipe `sentence`, one epoch. Seconds are those of the "
        "training loop and of measuring before, twice on the way and once after.\n\n"
        f"{table(kept['result'])}\n{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--model", default="embedded", help=MODELS)
    args.add_argument("--texts", type=int, default=1_400, help="of each kind (default: %(default)s)")
    args = args.parse_args()
    rows = []
    for name, texts in corpora(args.data).items():
        rows.append({"texts": name, **measure(args.model, texts, args.texts)})
        print(rows[-1], flush=True)
    print(section(keep("guard", rows, args.output)))


if __name__ == "__main__":
    main()
