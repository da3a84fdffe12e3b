"""Is the verdict of `compare` right? Tuning runs that help, do nothing and destroy, where labels say which is which.

For each domain there are sentences and documents to tune on, other documents for the verdict, and labels that the
verdict does not see. The verdict asks whether a first sentence finds the rest, which no recipe teaches. Runs differ in
model, recipe, learning rate and seed. The least gain and the least loss that count are
chosen on all domains but one and tested on that one, in turn. Beside it stand two baselines: to call every run better,
and to call a run better if `MirrorLoss` on held-out texts fell.

Truth is the change in the label score, in points of 100. A verdict is right if the change has its sign; a run that
differs by more than two points should get one. Of each run the mean of original and tuned weights is measured and
scored, too: what would a guard leave that may choose it?
"""

from __future__ import annotations

import gzip
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentencex import segment

from benchmarks.common import (
    MODELS,
    RESULTS,
    add_data,
    add_jobs,
    earlier,
    finish,
    keep,
    model_path,
    paper_sentences,
    parser,
    read_table,
    spearman,
)
from benchmarks.markdown import source, table
from benchmarks.search_tuning import cranfield, ndcg
from sentence_transformers_mirror import MirrorLoss, mirror_tune
from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.evidence.labels import read_pairs
from sentence_transformers_mirror.evidence.parts import Parts, split_parts
from sentence_transformers_mirror.evidence.ranking import reciprocal_ranks
from sentence_transformers_mirror.evidence.verdict import LEAST_GAIN, LEAST_LOSS, Evidence, Measurement, judge
from sentence_transformers_mirror.evidence.verdict import measure as measure_parts
from sentence_transformers_mirror.texts.sentences import split_title

LEAST = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08]  # effects to choose from; rounding alone can move a rank
WANTED = 0.95  # precision on the domains that the effect is chosen on
POINTS = 2.0  # a change of the label score that should not be missed
DOCUMENTS = 700  # for the verdict, or half of those that there are
MAX_LENGTH = 64  # tokens read of a text


@dataclass(frozen=True)
class Domain:
    """Args: sentences and documents (some with titles) to tune on, other documents for the verdict, and the score that
    labels give a model, 0 to 100."""

    texts: list[str]
    long: list
    documents: list
    score: Callable[[SentenceTransformer], float]


def unit(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    return embed(model, texts, normalize_embeddings=True)


def paragraphs(data: Path) -> list[str]:
    with gzip.open(data / "pretrain/heldout.txt.gz", "rt", encoding="utf-8") as file:
        found = [" ".join(line.split()) for line in file]
    found = [text for text in dict.fromkeys(found) if 80 <= len(text) <= 600]
    random.Random(0).shuffle(found)
    return found


def similarity(data: Path) -> Domain:
    """General English: paragraphs of many kinds, judged by STS-B dev."""
    sets = {"STS-B dev": read_pairs(data, "STS-B dev")}
    found = paragraphs(data)
    return Domain(
        paper_sentences(data),
        found[DOCUMENTS:],
        found[:DOCUMENTS],
        lambda model: spearman(model, sets)["STS-B dev"],
    )


def questions(data: Path) -> Domain:
    """Encyclopedic sentences, judged by whether a question finds its answer (mean reciprocal rank in QNLI)."""
    rows = read_table(data / "retrieval/qnli.dev.tsv.gz")
    texts = list(dict.fromkeys(row["sentence"] for row in rows))
    answers = {row["sentence"]: row["question"] for row in rows if row["label"] == "entailment"}
    asked = random.Random(0).sample(list(answers.items()), 1_000)
    found = paragraphs(data)[::-1]

    def score(model: SentenceTransformer) -> float:
        passages, queries = np.split(unit(model, [one[side] for side in (0, 1) for one in asked]), 2)
        return 100 * float(reciprocal_ranks(queries, passages).mean())

    return Domain(texts, found[DOCUMENTS:], found[:DOCUMENTS], score)


def aeronautics(data: Path) -> Domain:
    """Abstracts with titles, judged by the abstracts that answer 225 queries (Cranfield, nDCG@10)."""
    titles, texts, _, queries, right = cranfield(data)

    def score(model: SentenceTransformer) -> float:
        vectors = unit(model, [*queries, *texts])
        return ndcg(vectors[: len(queries)] @ vectors[len(queries) :].T, right)

    pairs = [split_title(title, text) for title, text in zip(titles, texts, strict=True) if text.strip()]
    order = random.Random(0).sample(pairs, len(pairs))
    half = len(order) // 2
    sentences = [sentence for _, body in order[half:] for sentence in segment("en", body)]
    return Domain(sentences, order[half:], order[:half], score)


DOMAINS = {"similarity": similarity, "questions": questions, "aeronautics": aeronautics}
# Good, neutral and destructive, about a third each.
SETTINGS = [
    {"recipe": recipe, "learning_rate": rate}
    for recipe, rates in {
        "sentence": [1e-6, 2e-5, 1e-4, 1e-3, 5e-3],
        "sentence-drophead": [5e-5, 2e-3],
        "word": [1e-4, 1e-2],
        "search": [2e-5, 1.5e-4, 5e-4, 3e-3],
    }.items()
    for rate in rates
]


@cache
def domain(name: str, data: Path) -> Domain:
    return DOMAINS[name](data)


@dataclass(frozen=True)
class Exam:
    """What one domain asks of a model, and how the untuned model did."""

    place: Domain
    parts: Parts
    sentences: list[str]  # for the loss
    measurement: Measurement
    score: float
    loss: float

    def judge(self, model: SentenceTransformer, seed: int) -> tuple[Evidence, float]:
        """The verdict on a tuned model, and the change in what the labels say."""
        measurement = measure_parts(model, self.parts)
        evidence = judge(self.measurement, measurement, self.parts, seed=seed)
        return evidence, round(self.place.score(model) - self.score, 3)


@cache
def exam(name: str, model_name: str, seed: int, data: Path) -> Exam:
    place, model = domain(name, data), load(model_name)
    parts = split_parts(place.documents, max_documents=DOCUMENTS, seed=seed)
    sentences = random.Random(1).sample(place.texts, 300)
    measurement = measure_parts(model, parts)
    return Exam(place, parts, sentences, measurement, place.score(model), held_out_loss(model, sentences))


def load(name: str) -> SentenceTransformer:
    model = SentenceTransformer(model_path(name), device="cpu")
    model.max_seq_length = min(MAX_LENGTH, model.max_seq_length or MAX_LENGTH)
    return model


def held_out_loss(model: SentenceTransformer, texts: list[str]) -> float:
    loss = MirrorLoss(model.eval())
    with torch.no_grad():
        found = [loss([model.preprocess(texts[i : i + 100])]).item() for i in range(0, len(texts), 100)]
    return float(np.mean(found))


def measure(name: str, model_name: str, setting: dict, seed: int, texts: int, data: Path) -> dict[str, object]:
    before, model = exam(name, model_name, seed, data), load(model_name)
    original = {key: value.clone() for key, value in model.state_dict().items()}
    on = before.place.long if setting["recipe"] == "search" else before.place.texts
    mirror_tune(model, on, max_texts=texts, seed=seed, batch_size=50, guard=False, **setting)
    evidence, truth = before.judge(model, seed)
    loss = held_out_loss(model, before.sentences)
    model.load_state_dict({key: (original[key] + value) / 2 for key, value in model.state_dict().items()})
    evidence_of_average, truth_of_average = before.judge(model, seed)
    average = {key: getattr(evidence_of_average, key) for key in ("difference", "low", "high")}
    return {
        "domain": name,
        "model": model_name,
        **setting,
        "seed": seed,
        "truth": truth,
        "loss": round(loss - before.loss, 4),
        "evidence": asdict(evidence),
        "average": {"truth": truth_of_average, **average},
    }


def verdict(evidence: dict, least: tuple[float, float]) -> str:
    """With a least gain and a least loss."""
    return "better" if evidence["low"] > least[0] else "worse" if evidence["high"] < -least[1] else "no evidence"


def judged(rows: list[dict], said: list[str]) -> dict[str, object]:
    """How often verdicts are right where they are said, and said where they should be."""
    found: dict[str, object] = {"runs": len(rows)}
    for word, sign in (("better", 1), ("worse", -1)):
        truths = [sign * row["truth"] for row, one in zip(rows, said, strict=True) if one == word]
        found[f"{word}: said"] = len(truths)
        found[f"{word}: right"] = sum(truth > 0 for truth in truths)
    large = [one for row, one in zip(rows, said, strict=True) if abs(row["truth"]) > POINTS]
    found["runs that differ"] = len(large)
    found["of these decided"] = sum(one != "no evidence" for one in large)
    return found


def choose(rows: list[dict]) -> tuple[float, float]:
    """The smallest gain, and with it the smallest loss, at which what is said is right often enough."""

    def right(gain: float, loss: float) -> bool:
        found = judged(rows, [verdict(row["evidence"], (gain, loss)) for row in rows])
        said, right = (sum(found[f"{word}: {what}"] for word in ("better", "worse")) for what in ("said", "right"))
        return right >= WANTED * said

    gain = next((least for least in LEAST if right(least, math.inf)), LEAST[-1])
    return gain, next((least for least in LEAST if right(gain, least)), LEAST[-1])


def summary(rows: list[dict]) -> list[dict[str, object]]:
    def line(name: str, tested_on: str, least: Sequence[object], rows: list[dict], said: list[str]) -> dict:
        leasts = {"least gain": least[0], "least loss": least[1]}
        return {"verdict": name, "tested on": tested_on, **leasts, **judged(rows, said)}

    lines, together = [], []
    for name in dict.fromkeys(row["domain"] for row in rows):
        mine = [row for row in rows if row["domain"] == name]
        others = [row for row in rows if row["domain"] != name]
        if others:
            least = choose(others)
            said = [verdict(row["evidence"], least) for row in mine]
            together += zip(mine, said, strict=True)
            lines.append(line("compare", name, least, mine, said))
    if together:
        tested = [row for row, _ in together], [said for _, said in together]
        lines.append(line("compare", "all, each by the others", ("", ""), *tested))
        least = choose(rows)
        said = [verdict(row["evidence"], least) for row in rows]
        lines.append(line("compare", "all, chosen on the same", least, rows, said))
        said = [verdict(row["evidence"], (LEAST_GAIN, LEAST_LOSS)) for row in rows]
        lines.append(line("compare", "all, as in the package", (LEAST_GAIN, LEAST_LOSS), rows, said))
    baselines = {
        "always better": ["better"] * len(rows),
        "loss on held-out texts": ["better" if row["loss"] < 0 else "worse" for row in rows],
    }
    return [*lines, *(line(name, "all", ("", ""), rows, said) for name, said in baselines.items())]


def guarded(rows: list[dict]) -> list[dict[str, object]]:
    """What labels say of the weights that a guard would leave, over all runs: none, one that takes back what is
    worse, and one that may also choose the mean of original and tuned weights."""
    least = choose(rows)

    def left(choices: Sequence[dict]) -> float:
        best = max(choices, key=lambda one: one["difference"])
        return 0.0 if verdict(best, least) == "worse" else best["truth"]

    changes = {
        "none": [row["truth"] for row in rows],
        "takes back what is worse": [left([tuned(row)]) for row in rows],
        "may average": [left([tuned(row), row["average"]]) for row in rows],
    }
    return [
        {
            "guard": name,
            "runs": len(rows),
            "mean change": round(float(np.mean(values)), 2),
            "worst": min(values),
            "runs that lose more than two points": sum(value < -POINTS for value in values),
        }
        for name, values in changes.items()
    ]


def tuned(row: dict) -> dict:
    return {**row["evidence"], "truth": row["truth"]}


def section(kept: dict) -> str:
    result = kept["result"]
    return (
        "## Is the verdict without labels right?\n\n"
        "Tuning runs that help, do nothing and destroy; truth is the change of a score with labels that the verdict "
        "does not see. The least gain and loss that count are chosen on the other domains. Right: the labels changed "
        "in the direction that was said. Runs that differ: by more than two points on the labels. In aeronautics the "
        "labels are of the texts that the verdict reads; in the other two domains it reads paragraphs of general "
        f"English, and the labels are of other texts.\n\n{table(result['summary'])}\nAll runs, changes in points on "
        "the labels:\n\n"
        + table([run_row(row) for row in result["runs"]])
        + "\n### What a guard leaves\n\nChange of the label score of the weights that the model ends with.\n\n"
        + table(result["guard"])
        + "\nCommands that made the runs: "
        + "; ".join(f"`{command}`" for command in result["commands"])
        + ".\n\n"
        + source(kept["environment"], of_the_embedded=True)
    )


def run_row(row: dict) -> dict[str, object]:
    evidence, average = row["evidence"], row["average"]

    def rank(one: dict) -> str:
        return f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"

    return {
        **{key: row[key] for key in ("domain", "model", "recipe", "learning_rate", "seed")},
        "labels": f"{row['truth']:+.2f}",
        "mean reciprocal rank": rank(evidence),
        "labels, averaged": f"{average['truth']:+.2f}",
        "mean reciprocal rank, averaged": rank(average),
    }


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--models", nargs="+", default=["embedded"], help=MODELS)
    args.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    args.add_argument("--texts", type=int, default=1_000, help="to tune on (default: %(default)s)")
    args.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first so many, for a quick look")
    add_jobs(args)
    whole = args.get_default("texts")
    args = args.parse_args()
    if args.texts != whole and not args.output:
        raise SystemExit("Other --texts are for a quick look: name another --output, where they are not the result.")
    path = args.output or RESULTS / "verdict.json"
    kept, same = earlier(path, {"runs": [], "commands": []})
    rows = [row for row in kept["runs"] if same or row["model"] != "embedded"]
    commands = kept["commands"]
    done = {(row["seed"], row["domain"], row["model"], row["recipe"], row["learning_rate"]) for row in rows}
    tasks = {}
    for seed, name, model, setting in itertools.product(
        args.seeds, args.domains, args.models, SETTINGS[: args.settings]
    ):
        tasks[(seed, name, model, *setting.values())] = name, model, setting, seed, args.texts, args.data

    def add(_: tuple, row: dict[str, object]) -> None:
        rows.append(row)
        commands.append(environment()["command"])
        keep("verdict", result(commands, rows), args.output)

    finish(tasks, done, measure, add, args.jobs)
    # Anew, since thresholds of the package may have changed.
    print(section(keep("verdict", result(commands, rows), args.output)))


def result(commands: list[str], rows: list[dict]) -> dict[str, object]:
    commands = list(dict.fromkeys(commands))
    return {"commands": commands, "summary": summary(rows), "guard": guarded(rows), "runs": rows}


if __name__ == "__main__":
    main()
