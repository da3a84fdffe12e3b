"""What the guard costs: share of the time that measuring takes, on texts of three lengths.

The guard sets texts aside until measuring them would take a tenth of the time that tuning takes, by the characters
read; this says what share it takes by the clock.
"""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.common import MODELS, add_data, keep, model_path, parser, read_table
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


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--model", default="embedded", help=MODELS)
    args.add_argument("--texts", type=int, default=1_400, help="of each kind (default: %(default)s)")
    args = args.parse_args()
    rows = []
    for name, texts in corpora(args.data).items():
        tuned = mirror_tune(model_path(args.model), texts, max_texts=args.texts, guard=True)
        rows.append(
            {
                "texts": name,
                "tuned on": tuned.texts,
                "set aside and measured": tuned.evidence.documents,
                "seconds": round(tuned.seconds, 1),
                "of these the guard's": round(tuned.guard_seconds, 1),
                "share": f"{tuned.guard_seconds / tuned.seconds:.1%}",
            }
        )
        print(rows[-1], flush=True)
    keep("guard", rows, args.output)


if __name__ == "__main__":
    main()
