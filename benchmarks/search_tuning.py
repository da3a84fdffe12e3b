"""What tuning for search gains, and what of the recipe `search` it is owed to.

- libraries: docstrings of installed packages, such as scikit-learn; of modules that were not tuned on a first sentence
  asks for the rest, mean reciprocal rank x 100. Variants of the recipe are compared here, and by STS-B dev; each
  changes one thing, and all read as many documents in as many steps.
- aeronautics: Cranfield, tuned on its 1,400 abstracts with their titles, asked by its 225 queries: nDCG@10 x 100,
  relevance 1 to 4 as one, where a document is its title and abstract. Nothing was chosen by it, nor by STS-B test and
  the other sets of `sts.py`. BM25 stands beside it.

``averaged`` are the mean of tuned and original weights. "0.6 of it and 0.7 of `sentence`" adds 0.6 of what the recipe
changed in the weights and 0.7 of what `sentence` changed, each tuned from the original ones; `added_changes` chose the
shares. "and `sentence` in turn" is one run of `examples/search_and_sentences.py`. Each finished run is kept and not
run again.
"""

from __future__ import annotations

import math
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from benchmarks.common import (
    MODELS,
    RESULTS,
    add_data,
    add_jobs,
    documentation,
    earlier,
    finish,
    keep,
    model_path,
    paper_sentences,
    parser,
    read,
    read_table,
)
from benchmarks.markdown import by_seed, score, source, table
from benchmarks.sts import SETS, scores
from examples.search_and_sentences import tune_in_turn
from sentence_transformers_mirror import RECIPES, DocumentViews, Recipe, mirror_tune
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.evidence.ranking import reciprocal_ranks
from sentence_transformers_mirror.training import trainer
from sentence_transformers_mirror.training.recipes import learning_rate_for

LIBRARIES = ["sklearn"]
DOCUMENTS = 4_160  # of the libraries, once: 65 steps
SEARCH = RECIPES["search"]
MIRROR = {"views": None}


@dataclass(frozen=True)
class TellingSentences(DocumentViews):
    """Asks by the sentence with the rarest words, instead of one at random."""

    weights: tuple[tuple[str, float], ...] = ()

    def _sentence_and_rest(self, text: str, place: float, left_in: float) -> list:
        known = _weights(self.weights)
        candidates = [(n + 0.5) / 40 for n in range(40)]  # places that reach every sentence of a window
        cut = super()._sentence_and_rest
        made = [sides for place in candidates if (sides := cut(text, place, left_in))]
        if not made:
            return []
        return max(made, key=lambda sides: np.mean([known.get(word, 0.0) for word in words("".join(sides[0][0]))]))


@cache
def _weights(pairs: tuple[tuple[str, float], ...]) -> dict[str, float]:
    return dict(pairs)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or [""]


def rarity(documents: list[str]) -> tuple[tuple[str, float], ...]:
    counts = Counter(chain.from_iterable(set(words(text)) for text in documents))
    return tuple((word, math.log(len(documents) / count)) for word, count in counts.items())


class Clustered(trainer.Shuffled):
    """After the first fifth of the documents every other batch is of one cluster of like documents."""

    clusters: np.ndarray

    def __iter__(self) -> Iterator[int]:
        order, size = list(super().__iter__()), SEARCH.batch_size
        begin = len(order) // 5 // size * size
        yield from order[:begin]
        rest, turn = order[begin:], 0
        while rest:
            alike = [row for row in rest if self.clusters[row] == self.clusters[rest[0]]] if turn % 2 else []
            batch = (alike + rest)[:size] if len(alike) < size else alike[:size]
            batch = list(dict.fromkeys([*batch, *rest]))[:size]
            yield from batch
            taken = set(batch)
            rest, turn = [row for row in rest if row not in taken], turn + 1


@contextmanager
def clustered(documents: list[str]) -> Iterator[None]:
    found = TfidfVectorizer(sublinear_tf=True, max_features=30_000, stop_words="english").fit_transform(documents)
    vectors = normalize(TruncatedSVD(64, random_state=0).fit_transform(found))
    groups = max(2, len(documents) // (4 * SEARCH.batch_size))
    Clustered.clusters = MiniBatchKMeans(groups, random_state=0, n_init=1).fit_predict(vectors)
    plain, trainer.Shuffled = trainer.Shuffled, Clustered
    try:
        yield
    finally:
        trainer.Shuffled = plain


IN_TURN = "and `sentence` in turn"
VARIANTS: dict[str, dict[str, object]] = {
    "the recipe": {},
    "mirror views only": MIRROR,
    "crops only": {"views": DocumentViews(sentences=0)},
    "sentences only": {"views": DocumentViews(sentences=1)},
    "telling sentences": {"views": TellingSentences()},
    "no words deleted": {"views": DocumentViews(deleted=0)},
    "batches of like documents": {},
    "temperature 0.02": {"temperature": 0.02},
    "temperature 0.1": {"temperature": 0.1},
    "no dropout": {"dropout": 0.0},
    "twice the learning rate": {"times": 2.0},
    "half the learning rate": {"times": 0.5},
    IN_TURN: {},
}
SUM = "0.6 of it and 0.7 of `sentence`"
# On the domain that is reported.
REPORTED: dict[str, dict[str, object]] = {
    "the recipe": {},
    "no titles": {"views": DocumentViews(titles=0)},
    "mirror views only": MIRROR,
    "with 1,400 sentences": {},
    "then `sentence`": {},
    SUM: {},
    IN_TURN: {},
}


def tuned(model: SentenceTransformer, documents: list, variant: dict[str, object], seed: int, epochs: int) -> float:
    """Tune in place; gives the seconds it took."""
    recipe: Recipe = replace(SEARCH, epochs=epochs)
    variant = dict(variant)
    if times := variant.pop("times", None):
        rate = learning_rate_for(sum(parameter.numel() for parameter in model.parameters()))
        variant["learning_rate"] = times * rate
    result = mirror_tune(model, documents, recipe, seed=seed, guard=False, **variant)
    return round(result.seconds, 1)


def in_turn(
    model: SentenceTransformer, documents: list[tuple[str, str]], sentences: list[str], seed: int, epochs: int
) -> float:
    """Tune in place by both recipes in one run; gives the seconds it took."""
    start = time.perf_counter()
    tune_in_turn(model, documents, sentences, seed=seed, bf16=has_native_bf16(model.device), epochs=epochs)
    return round(time.perf_counter() - start, 1)


def library(model: SentenceTransformer, name: str, data: Path) -> dict[str, float]:
    queries, passages = zip(*documentation(name)[1], strict=True)
    ranks = reciprocal_ranks(embed(model, list(queries)), embed(model, list(passages)))
    return {name: round(100 * float(ranks.mean()), 2), **scores(model, data, ["STS-B dev"])}


def run_library(model_name: str, name: str, variant: str | None, seed: int, data: Path) -> dict[str, object]:
    model = load(model_name)
    if variant is None:
        return {"tuned": library(model, name, data)}
    documents = documentation(name)[0]
    random.Random(0).shuffle(documents)
    documents = documents[:DOCUMENTS]
    changed = dict(VARIANTS[variant])
    if variant == "telling sentences":
        changed["views"] = TellingSentences(weights=rarity(documents))
    # As many steps for all, however many docstrings there are.
    epochs = max(1, round(DOCUMENTS / len(documents)))
    if variant == "batches of like documents":
        with clustered(documents):
            seconds = tuned(model, documents, changed, seed, epochs)
    elif variant == IN_TURN:
        seconds = in_turn(model, [("", text) for text in documents], paper_sentences(data), seed, epochs)
    else:
        seconds = tuned(model, documents, changed, seed, epochs)
    return {"tuned": library(model, name, data), "seconds": seconds}


@cache
def cranfield(data: Path) -> tuple[list[str], list[str], list[str], list[str], np.ndarray]:
    """Titles, texts (which begin with the title), ids, queries, and whether a document answers a query."""
    rows = read_table(data / "retrieval/cranfield.docs.tsv.gz")
    queries = {row["query_id"]: row["text"] for row in read_table(data / "retrieval/cranfield.queries.tsv")}
    relevant: dict[str, set[str]] = {}
    for row in read_table(data / "retrieval/cranfield.qrels.tsv"):
        if 1 <= int(row["code"]) <= 4:
            relevant.setdefault(row["query_id"], set()).add(row["doc_id"])
    ids = [row["doc_id"] for row in rows]
    asked = [query for query in queries if query in relevant]
    right = np.array([[name in relevant[query] for name in ids] for query in asked])
    texts = [row["text"] for row in rows]
    return [row["title"] for row in rows], texts, ids, [queries[query] for query in asked], right


def ndcg(scores: np.ndarray, right: np.ndarray, k: int = 10) -> float:
    """Mean over queries x 100, of binary relevance; scores and right have the shape (queries, documents)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gained = (np.take_along_axis(right, best, axis=1) * discount[: best.shape[1]]).sum(axis=1)
    ideal = np.array([discount[: min(k, count)].sum() for count in right.sum(axis=1)])
    return round(100 * float((gained / ideal).mean()), 2)


def aeronautics(model: SentenceTransformer, data: Path, sets: list[str] = SETS) -> dict[str, float]:
    _, texts, _, queries, right = cranfield(data)
    vectors = embed(model, [*queries, *texts], normalize_embeddings=True)
    found = vectors[: len(queries)] @ vectors[len(queries) :].T
    return {"nDCG@10": ndcg(found, right), **scores(model, data, sets)}


def run_aeronautics(model_name: str, variant: str | None, rate: float | None, seed: int, data: Path) -> dict:
    model = load(model_name)
    if variant is None:
        return {"tuned": aeronautics(model, data)}
    titles, texts, *_ = cranfield(data)
    documents = [(title, text) for title, text in zip(titles, texts, strict=True) if text.strip()]
    if variant == "with 1,400 sentences":
        documents += [("", text) for text in random.Random(0).sample(paper_sentences(data), 1_400)]
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = dict(REPORTED[variant]) if rate is None else {**REPORTED[variant], "learning_rate": rate}
    if variant == IN_TURN:
        seconds = in_turn(model, documents, paper_sentences(data), seed, SEARCH.epochs)
    else:
        seconds = tuned(model, documents, changed, seed, SEARCH.epochs)
    if variant == SUM:
        by_search = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(original)
        seconds += round(mirror_tune(model, paper_sentences(data), "sentence", seed=seed).seconds, 1)
        model.load_state_dict(
            {
                name: original[name] + 0.6 * (by_search[name] - original[name]) + 0.7 * (tensor - original[name])
                for name, tensor in model.state_dict().items()
            }
        )
    if variant == "then `sentence`":
        seconds += round(mirror_tune(model, paper_sentences(data), "sentence", seed=seed).seconds, 1)
    found = {"tuned": aeronautics(model, data), "seconds": seconds}
    model.load_state_dict({name: (original[name] + tensor) / 2 for name, tensor in model.state_dict().items()})
    return {**found, "averaged": aeronautics(model, data, ["STS-B"])}


def bm25(data: Path) -> float:
    """nDCG@10 of the best words: bm25s with its English stop words."""
    import bm25s

    _, texts, ids, queries, right = cranfield(data)
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)
    return ndcg(np.stack([retriever.get_scores(one) for one in tokens]), right)


def load(name: str) -> SentenceTransformer:
    return SentenceTransformer(model_path(name), device="cpu")


def measure(kind: str, *arguments: object) -> dict[str, object]:
    return {"library": run_library, "aeronautics": run_aeronautics}[kind](*arguments)


def section(kept: dict) -> str:
    result = kept["result"]
    parts = [
        "## Tuning for search",
        "",
        "The recipe `search`, one thing changed at a time. Means over seeds, largest minus smallest in brackets; a "
        "difference smaller than these is none.",
    ]
    models: dict[str, dict[str, dict[str, list[dict]]]] = {}
    for name, runs in by_seed(result["runs"]).items():
        model, domain, variant = name.rsplit("/", 2)
        models.setdefault(model, {}).setdefault(domain, {})[variant] = runs
    for model, domains in models.items():
        if reported := domains.pop("aeronautics", None):
            parts += [
                "",
                f"### {model}: Cranfield, tuned on its own 1,400 abstracts and titles",
                "",
                f"Nothing was chosen by these numbers. BM25 has {result['BM25']:.1f}. Averaged: the mean of tuned and "
                "original weights. Similarity: all sets of the section above.",
                "",
                table(on_cranfield(reported)),
            ]
        if domains:
            parts += [
                "",
                f"### {model}: docstrings of libraries",
                "",
                "A first sentence of a module that was not tuned on asks for the rest: mean reciprocal rank x 100. "
                "The recipe was chosen by these and by STS-B dev.",
                "",
                table(in_libraries(domains)),
            ]
    return "\n".join([*parts, source(kept["environment"], of_the_embedded=True)])


def on_cranfield(variants: dict[str, list[dict]]) -> list[dict[str, object]]:
    """A row for each variant, and for the mean of its weights and the original ones."""
    rows = []
    for variant, runs in variants.items():
        for what in ("tuned", "averaged"):
            if found := [one[what] for one in runs if what in one]:
                sets = [{key: one[key] for key in one if key != "nDCG@10"} for one in found]
                all_sets = [statistics.mean(one.values()) for one in sets if len(one) > 1]
                shown = ("STS-B", "SICK-R dev", "BIOSSES")
                rows.append(
                    {
                        "": variant if what == "tuned" else f"{variant}, averaged",
                        "Cranfield nDCG@10": score([one["nDCG@10"] for one in found], 1),
                        **{name: score([one[name] for one in sets if name in one], 1) for name in shown},
                        "mean of all similarity": score(all_sets, 1),
                        "seeds": len(found),
                    }
                )
    return rows


def in_libraries(domains: dict[str, dict[str, list[dict]]]) -> list[dict[str, object]]:
    """A row for each variant; the change is from the first of them, in the libraries that have both."""
    variants = dict.fromkeys(variant for found in domains.values() for variant in found)
    first = next((variant for variant in variants if variant != "untuned"), "untuned")

    def ranks(domain: str, variant: str) -> list[float]:
        return [one["tuned"][domain] for one in domains[domain].get(variant, [])]

    rows = []
    for variant in variants:
        both = [domain for domain in domains if ranks(domain, variant) and ranks(domain, first)]
        changes = [statistics.mean(ranks(one, variant)) - statistics.mean(ranks(one, first)) for one in both]
        runs = [found[variant] for found in domains.values() if variant in found]
        rows.append(
            {
                "": variant,
                **{domain: score(ranks(domain, variant), 1) for domain in domains},
                "change": f"{statistics.mean(changes):+.1f}" if changes else "",
                "STS-B dev": score([one["tuned"]["STS-B dev"] for seeds in runs for one in seeds], 1),
                "seeds": len(runs[0]),
            }
        )
    return rows


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    add_jobs(args)
    args.add_argument("--models", nargs="+", default=["embedded"], help=MODELS)
    args.add_argument("--libraries", nargs="*", default=LIBRARIES)
    args.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), help="in the libraries")
    args.add_argument("--reported", nargs="*", default=list(REPORTED), choices=list(REPORTED), help="on Cranfield")
    args.add_argument("--rates", nargs="+", type=float, default=[None], help="on Cranfield (default: the recipe's)")
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = args.parse_args()
    path = args.output or RESULTS / "search_tuning.json"
    kept, same = earlier(path, {"runs": {}})
    runs = {name: one for name, one in kept["runs"].items() if same or not name.startswith("embedded/")}
    tasks: dict[str, tuple] = {}
    for model in args.models:
        if args.reported:
            tasks[f"{model}/aeronautics/untuned"] = ("aeronautics", model, None, None, 0, args.data)
        for name in args.libraries:
            tasks[f"{model}/{name}/untuned"] = ("library", model, name, None, 0, args.data)
        for seed in args.seeds:
            for rate in args.rates:
                for variant in args.reported:
                    label = variant if rate is None else f"{variant}, learning rate {rate:g}"
                    tasks[f"{model}/aeronautics/{label}/{seed}"] = (
                        "aeronautics", model, variant, rate, seed, args.data,
                    )  # fmt: skip
        for seed in args.seeds:
            for variant in args.variants:
                for name in args.libraries:
                    tasks[f"{model}/{name}/{variant}/{seed}"] = ("library", model, name, variant, seed, args.data)
    result = {"BM25": kept.get("BM25") or bm25(args.data), "runs": runs}

    def add(name: str, one: dict[str, object]) -> None:
        runs[name] = one
        keep("search_tuning", result, args.output)

    finish(tasks, runs, measure, add, args.jobs)
    print(section(read(path)))


if __name__ == "__main__":
    main()
