"""Tables 5 and 6: words of two languages, for a multilingual model; tuned on the words of both.

Table 6 is lexicon induction: a rotation of one language's vectors onto the other's is learned from a training lexicon
(Procrustes), and a word's translation is its nearest neighbour after it, by CSLS; accuracy x 100. Table 5 is the
similarity of pairs of words across languages, Spearman x 100: a file of `--pairs` with score, word1 and word2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.stats import spearmanr

from benchmarks.common import read_table
from benchmarks.paper.shared import Table, line, load, parser, report, tuned
from sentence_transformers_mirror.embedding import embed

# mBERT: CLS, mean, tuned; of both tables the average over pairs where the pair at hand is not among them.
LEXICON = {"en-fr": (4.5, 1.4, 45.8)}
SIMILARITY = {"en-fr": (16.3, 45.4)}
_NEIGHBOURS = 10


def csls(queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors less the mean cosine of either with its ten nearest in the other language."""
    scores = queries @ targets.T
    near = min(_NEIGHBOURS, *scores.shape)
    of_queries = np.sort(scores, axis=1)[:, -near:].mean(axis=1, keepdims=True)
    of_targets = np.sort(scores, axis=0)[-near:].mean(axis=0, keepdims=True)
    return 2 * scores - of_queries - of_targets


def induction(vectors: dict[str, np.ndarray], train: list, test: list) -> float:
    """Share of the test words whose nearest target is one of their translations.

    Args:
        vectors: A unit vector for each word, ``source:word`` and ``target:word``.
        train, test: Pairs of source and target words.
    """
    a, b = (np.stack([vectors[f"{side}:{pair[place]}"] for pair in train]) for place, side in enumerate(SIDES))
    rotation = orthogonal_procrustes(a, b)[0]
    sources = list(dict.fromkeys(source for source, _ in test))
    targets = list(dict.fromkeys(target for _, target in [*train, *test]))
    queries = np.stack([vectors[f"source:{word}"] for word in sources]) @ rotation
    best = csls(queries, np.stack([vectors[f"target:{word}"] for word in targets])).argmax(axis=1)
    right = {(source, target) for source, target in test}
    return float(np.mean([(source, targets[place]) in right for source, place in zip(sources, best, strict=True)]))


SIDES = ("source", "target")


def measure(args: argparse.Namespace) -> Table:
    rows = [row for row in read_table(next(args.data.rglob("xling.*.tsv*"))) if row["pair"] == args.languages]
    if not rows:
        raise SystemExit(f"There is no lexicon of {args.languages} in {args.data}.")
    train, test = (
        [(row["source"], row["target"]) for row in rows if row["split"] == part] for part in ("train", "test")
    )
    pairs = [] if args.pairs is None else read_table(args.pairs)
    words = {f"{side}:{row[side]}": row[side] for row in rows for side in SIDES}

    def scores(model) -> tuple[float, float | None]:
        made = embed(model, list(words.values()), normalize_embeddings=True)
        found = 100 * induction(dict(zip(words, made, strict=True)), train, test)
        if not pairs:
            return found, None
        a, b = (model.encode([row[name] for row in pairs], normalize_embeddings=True) for name in ("word1", "word2"))
        gold = [float(row["score"]) for row in pairs]
        return found, 100 * float(spearmanr((a * b).sum(axis=1), gold).statistic)

    texts = list(dict.fromkeys(words.values()))
    before = scores(load(args, "mean"))
    after = [scores(tuned(args, texts, "word", seed)) for seed in args.seeds]
    _, mean, mirror = LEXICON.get(args.languages, (None, None, None))
    lines = [
        line(f"{args.languages}, lexicon induction, before, mean", mean, before[0]),
        line(f"{args.languages}, lexicon induction, after", mirror, [one[0] for one in after]),
    ]
    if pairs:
        mean, mirror = SIMILARITY.get(args.languages, (None, None))
        lines.append(line(f"{args.languages}, similarity, before, mean", mean, before[1]))
        lines.append(line(f"{args.languages}, similarity, after", mirror, [one[1] for one in after]))
    starts = [one["what"].removesuffix(", before, mean") for one in lines if one["what"].endswith(", before, mean")]
    changes = {f"{start}, tuning": (f"{start}, before, mean", f"{start}, after") for start in starts}
    return lines, changes


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--languages", default="en-fr", help="as in the file of lexicons (default: %(default)s)")
    args.add_argument("--pairs", type=Path, help="words of two languages with a similarity, tab-separated")
    args = args.parse_args()
    report("table05_06_cross_lingual", "Tables 5 and 6: across languages", args, *measure(args))


if __name__ == "__main__":
    main()
