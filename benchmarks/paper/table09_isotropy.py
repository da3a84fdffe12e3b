"""Table 9: where vectors lie before and after tuning: isotropy score x 100 and norm of the mean vector."""

from __future__ import annotations

import argparse

from benchmarks.common import paper_sentences, paper_words
from benchmarks.paper.shared import Table, line, load, parser, report, tuned
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.evidence.geometry import isotropy, mean_vector_norm

# Isotropy score x 100, norm of the mean vector: CLS, mean, tuned.
PAPER = {
    "words": ((4.3, 13.79), (16.9, 7.89), (59.9, 2.11)),
    "sentences": ((6.2, 12.73), (22.2, 6.93), (26.5, 5.57)),
}


def measure(args: argparse.Namespace) -> Table:
    lines, changes = [], {}
    for kind, texts, recipe in (
        ("words", paper_words(args.data), "word"),
        ("sentences", paper_sentences(args.data), "sentence"),
    ):
        texts = list(dict.fromkeys(texts))[: args.max_texts]

        def numbers(model, texts=texts) -> tuple[float, float]:
            vectors = embed(model, texts)
            return 100 * isotropy(vectors), mean_vector_norm(vectors)

        before = [numbers(load(args, pooling)) for pooling in ("cls", "mean")]
        after = [numbers(tuned(args, texts, recipe, seed)) for seed in args.seeds]
        for place, what in enumerate(("isotropy", "mean vector norm")):
            cls, mean, mirror = (one[place] for one in PAPER[kind])
            lines.append(line(f"{kind}, before, CLS: {what}", cls, before[0][place]))
            lines.append(line(f"{kind}, before, mean: {what}", mean, before[1][place]))
            lines.append(line(f"{kind}, after: {what}", mirror, [one[place] for one in after]))
            changes[f"{kind}, tuning, from mean: {what}"] = f"{kind}, before, mean: {what}", f"{kind}, after: {what}"
    return lines, changes


def main() -> None:
    args = parser(__doc__).parse_args()
    report("table09_isotropy", "Table 9: where vectors lie", args, *measure(args))


if __name__ == "__main__":
    main()
