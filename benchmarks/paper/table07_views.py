"""Tables 7, 8, 12, 13 and 20: what makes the two views of a sentence differ; mean of STS12 to STS-B, Spearman x 100.

The paper's averages are over seven sets; STS16 and SICK-R are left out where they are not there, so compare changes
and not levels. Table 8 is the paper's RoBERTa on STS12, without a mask.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

from benchmarks.ablations import UNMASKED, SameDropout, Variant, char_span, identical
from benchmarks.common import paper_sentences, spearman
from benchmarks.paper.shared import Table, line, parser, report, scored
from sentence_transformers_mirror import CharSpanMask
from sentence_transformers_mirror.evidence.evaluation import SEVEN
from sentence_transformers_mirror.evidence.labels import Pairs


def span(characters: int):
    return lambda model: CharSpanMask(model.tokenizer, characters)


def measure(args: argparse.Namespace, sets: dict[str, Pairs]) -> Table:
    texts = paper_sentences(args.data)[: args.max_texts]
    plain = replace(UNMASKED, learning_rate=args.learning_rate, ignore_duplicates=False)
    still = replace(plain, dropout=0.0)

    def variant(recipe, **options) -> Variant:
        return Variant(recipe, args.pooling, distinct=False, **options)

    variants = {
        "Table 20: mask and dropout": (74.4, variant(plain, second_view=char_span)),
        "Table 20: no dropout": (72.6, variant(still, second_view=char_span)),
        "Table 20: no mask": (71.7, variant(plain)),
        "Table 20: neither": (65.1, variant(still, second_view=identical)),
        **{
            f"Table 12: dropout {p}": (paper, variant(replace(plain, dropout=p), second_view=char_span))
            for p, paper in ((0.05, 74.0), (0.2, 74.8), (0.3, 74.8), (0.4, 73.1))
        },
        **{
            f"Table 13: span of {k} characters": (paper, variant(plain, second_view=span(k)))
            for k, paper in ((2, 74.1), (10, 72.0), (20, 61.6))
        },
        "Table 8: no mask, no dropout (RoBERTa, STS12)": (56.2, variant(still, second_view=identical)),
        "Table 8: no mask, dropout": (64.8, variant(plain)),
        "Table 8: no mask, the same dropout twice": (45.2, variant(plain, loss=SameDropout, second_view=identical)),
    }
    tables = {"Table 8": ["STS12"]}
    scores = {}
    for name, (_, one) in variants.items():
        # Rows of different tables are the same run.
        run = next((other for other, (_, same) in variants.items() if same == one), name)
        if run not in scores:
            scores[run] = [spearman(one.tune(texts, seed, args.model), sets) for seed in args.seeds]
        scores[name] = scores[run]
    lines = [
        line(name, paper, [statistics.mean(seed[one] for one in tables.get(name[:7], sets)) for seed in scores[name]])
        for name, (paper, _) in variants.items()
    ]
    full = "Table 20: mask and dropout"
    still, same = "Table 8: no mask, no dropout (RoBERTa, STS12)", "Table 8: no mask, the same dropout twice"
    changes = {f"{name}, from the full recipe": (full, name) for name in variants if not name.startswith("Table 8")}
    del changes[f"{full}, from the full recipe"]
    changes["Table 8: dropout, from none"] = still, "Table 8: no mask, dropout"
    changes["Table 8: the same dropout twice, from none"] = still, same
    return lines, changes


def main() -> None:
    args = parser(__doc__).parse_args()
    sets = scored(args, SEVEN)
    title = "Tables 7, 8, 12, 13, 20: what makes views differ"
    report("table07_views", title, args, *measure(args, sets), f"Ours: mean of {', '.join(sets)}.")


if __name__ == "__main__":
    main()
