"""STS-B before and after tuning on the paper's 10,000 sentences: Spearman x 100 of cosine similarity.

Each seed draws its own masks, dropout and order; the mean and the spread (largest minus smallest) over seeds are kept.
With several learning rates and ``--split dev`` this is how the recipe for small models was chosen.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from common import add_data, keep, paper_sentences, parser, table
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from sentence_transformers_mirror import embedded_model_path, mirror_tune


def stsb(data: Path, split: str, pairs: int | None = None) -> EmbeddingSimilarityEvaluator:
    rows = table(data / f"sts/STSB.{split}.tsv.gz")[:pairs]
    return EmbeddingSimilarityEvaluator(
        *([row[key] for row in rows] for key in ("sentence1", "sentence2")),
        scores=[float(row["score"]) for row in rows],
        batch_size=256,
        main_similarity="cosine",
        show_progress_bar=False,
    )


def load(path: str, pooling: str) -> SentenceTransformer:
    transformer = Transformer(path)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling)])


def spearman(evaluator: EmbeddingSimilarityEvaluator, model: SentenceTransformer) -> float:
    return 100 * evaluator(model)["spearman_cosine"]


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    args.add_argument("--name", default="sts", help="of the result")
    args.add_argument("--recipes", nargs="+", default=["sentence"])
    args.add_argument("--pooling", default="mean", choices=["mean", "cls"])
    args.add_argument("--learning-rates", nargs="+", type=float, help="default: the recipe's own")
    args.add_argument("--split", default="test", choices=["dev", "test"])
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args.add_argument("--max-texts", type=int, default=10_000)
    args.add_argument("--pairs", type=int, help="of the split, for a quick look")
    args = args.parse_args()
    evaluator = stsb(args.data, args.split, args.pairs)
    sentences = paper_sentences(args.data)
    before = {pooling: round(spearman(evaluator, load(args.model, pooling)), 2) for pooling in ("mean", "cls")}
    print(f"before: {before}", flush=True)
    rows = []
    for recipe in args.recipes:
        for rate in args.learning_rates or [None]:
            overrides = {} if rate is None else {"learning_rate": rate}
            scores, seconds = [], []
            for seed in args.seeds:
                model = load(args.model, args.pooling)
                result = mirror_tune(model, sentences, recipe, seed=seed, max_texts=args.max_texts, **overrides)
                scores.append(round(spearman(evaluator, model), 2))
                seconds.append(round(result.seconds, 1))
            row = {
                "recipe": recipe,
                "learning_rate": result.recipe.learning_rate,
                "pooling": args.pooling,
                "split": args.split,
                "seeds": args.seeds,
                "scores": scores,
                "mean": round(statistics.mean(scores), 2),
                "spread": round(max(scores) - min(scores), 2),
                "seconds": seconds,
                "steps": result.steps,
                "texts": result.texts,
                "precision": result.precision,
            }
            print(row, flush=True)
            rows.append(row)
    model_name = "embedded" if args.model == embedded_model_path() else args.model
    keep(args.name, {"model": model_name, "split": args.split, "before": before, "after": rows}, args.output)


if __name__ == "__main__":
    main()
