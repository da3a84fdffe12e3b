"""Figure 5: how many texts; sentences on STS12 and words on Multi-SimLex, Spearman x 100.

The paper's curves peak at 10,000 to 20,000 and then fall; their values are only in the figure. The files at hand hold
10,000 of each.
"""

from __future__ import annotations

from shared import line, load, paper_sentences, paper_words, parser, report, tuned

from sentence_transformers_mirror.evaluation import labelled_sets


def main() -> None:
    args = parser(__doc__).parse_args()
    sets = {one.name: one for one in labelled_sets(args.data, "all") if one.name in ("STS12", "Multi-SimLex ENG")}
    lines = []
    for name, texts, recipe in (
        ("STS12", paper_sentences(args.data), "sentence"),
        ("Multi-SimLex ENG", paper_words(args.data), "word"),
    ):
        if not sets[name].size:
            lines.append(line(name, None, None))
            continue

        def score(model, name=name) -> float:
            return 100 * sets[name].evaluator(model)[f"{name}_spearman_cosine"]

        lines.append(line(f"{name}, before", None, score(load(args))))
        for count in (500, 1_000, 2_000, 5_000, 10_000):
            if count <= args.max_texts:
                scores = [score(tuned(args, texts, recipe, seed, max_texts=count)) for seed in args.seeds]
                lines.append(line(f"{name}, {count:,} texts", None, scores))
    report("figure05_texts", "Figure 5: number of texts", args, lines)


if __name__ == "__main__":
    main()
