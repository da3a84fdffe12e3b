"""Tables 7, 8, 12, 13 and 20: what makes the two views of a sentence differ; mean of STS12 to STS-B, Spearman x 100.

The paper's averages are over seven sets; STS16 and SICK-R are left out where they are not there, so compare changes
and not levels. Table 8 is the paper's RoBERTa on STS12, without a mask.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from ablations import UNMASKED, SameDropout, Variant, char_span, identical
from shared import line, paper_sentences, parser, rate, report

from sentence_transformers_mirror import CharSpanMask
from sentence_transformers_mirror.evaluation import SEVEN, labelled_sets


def span(characters: int):
    return lambda model: CharSpanMask(model.tokenizer, characters)


def main() -> None:
    args = parser(__doc__).parse_args()
    sets = [one for one in labelled_sets(args.data, "sts", batch_size=128) if one.name in SEVEN and one.size]
    texts = paper_sentences(args.data)[: args.max_texts]
    plain = replace(UNMASKED, learning_rate=rate(args), ignore_duplicates=False)
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
    lines = []
    for name, (paper, one) in variants.items():
        mine = [one for one in sets if one.name == "STS12"] if name.startswith("Table 8") else sets
        scores = []
        for seed in args.seeds:
            model = one.tune(texts, seed, args.model)
            scores.append(
                100 * statistics.mean(each.evaluator(model)[f"{each.name}_spearman_cosine"] for each in mine)
            )
        lines.append(line(name, paper, scores))
    names = ", ".join(one.name for one in sets)
    report("table07_views", "Tables 7, 8, 12, 13, 20: what makes views differ", args, lines, f"Ours: mean of {names}.")


if __name__ == "__main__":
    main()
