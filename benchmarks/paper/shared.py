"""What the scripts of the paper's tables share: arguments, tuning as the paper does, and a table beside the paper's.

Numbers of the paper are those of Liu et al., EMNLP 2021 (arXiv 2104.08027), for BERT-base. Its "mean" baselines
average over padding, too, which makes them lower than a mean over the text (52.57 for STS with the latter).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, add_data, keep, paper_sentences, paper_words, table  # noqa: E402, F401
from common import parser as plain_parser  # noqa: E402

from sentence_transformers_mirror import embedded_model_path, mirror_tune  # noqa: E402
from sentence_transformers_mirror.evaluation import labelled_sets  # noqa: E402


def parser(description: str, pooling: str = "mean") -> argparse.ArgumentParser:
    args = plain_parser(description)
    add_data(args)
    args.add_argument("--model", default=embedded_model_path(), help="folder or name (default: the embedded model)")
    args.add_argument("--pooling", default=pooling, choices=["mean", "cls"])
    args.add_argument("--learning-rate", type=float, help="default: the paper's 2e-5, or 1e-4 for the embedded model")
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args.add_argument("--max-texts", type=int, default=10_000, help="to tune on (default: the paper's %(default)s)")
    return args


def load(args: argparse.Namespace, pooling: str | None = None) -> SentenceTransformer:
    transformer = Transformer(args.model)
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling or args.pooling)]
    )


def rate(args: argparse.Namespace) -> float:
    """The paper's learning rate; a small model needs a larger one (see results.md)."""
    return args.learning_rate or (1e-4 if args.model == embedded_model_path() else 2e-5)


def tuned(args: argparse.Namespace, texts: list[str], recipe: str, seed: int, **overrides: object):
    """A model after one of the paper's recipes."""
    model = load(args)
    options = {"max_texts": args.max_texts, "learning_rate": rate(args), "guard": False, **overrides}
    mirror_tune(model, texts, recipe, seed=seed, **options)
    return model


def words(args: argparse.Namespace) -> Callable[[SentenceTransformer], float]:
    """Spearman x 100 of a model on the English pairs of Multi-SimLex."""
    name = "Multi-SimLex ENG"
    (found,) = (one for one in labelled_sets(args.data, "words") if one.name == name)
    if found.evaluator is None:
        raise SystemExit(f"Multi-SimLex is not in {args.data}.")
    return lambda model: 100 * found.evaluator(model)[f"{name}_spearman_cosine"]


def line(what: str, paper: float | None, ours: list[float] | float | None) -> dict[str, object]:
    """A line of a table; ours is a number or one for each seed, times 100 as in the paper's text."""
    seeds = [] if ours is None else ours if isinstance(ours, list) else [ours]
    return {
        "": what,
        "paper, BERT-base": "" if paper is None else f"{paper:.1f}",
        "ours": f"{statistics.mean(seeds):.1f}" if seeds else "absent",
        "spread": f"{max(seeds) - min(seeds):.1f}" if len(seeds) > 1 else "",
    }


def report(name: str, title: str, args: argparse.Namespace, lines: list[dict[str, object]], words: str = "") -> None:
    """Print the lines and keep them; render.py puts them into results.md."""
    for one in lines:
        print("  ".join(f"{value!s:>16}" if key else f"{value!s:40}" for key, value in one.items()))
    model = "embedded" if args.model == embedded_model_path() else args.model
    kept = {
        "title": title,
        "model": model,
        "pooling": args.pooling,
        "seeds": args.seeds,
        "lines": lines,
        "words": words,
    }
    keep(name, kept, args.output or RESULTS / "paper" / f"{name}.json")
