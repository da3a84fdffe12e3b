"""From raw text to search on every machine that has Python: the documentation strings of its standard library."""

from __future__ import annotations

import json
import logging
import random
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sentence_transformers_mirror import embedded_model_path
from sentence_transformers_mirror.evidence.parts import Parts
from sentence_transformers_mirror.evidence.verdict import judge, measure
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.search import Hit, SearchIndex
from sentence_transformers_mirror.search.fusion import MODES
from sentence_transformers_mirror.search.store import refuse_taken
from sentence_transformers_mirror.texts.corpus import load_corpus
from sentence_transformers_mirror.texts.docstrings import read_docstrings, split
from sentence_transformers_mirror.training.saving import refuse_model
from sentence_transformers_mirror.training.tuning import mirror_tune

logger = logging.getLogger(__name__)

RECIPE = "search"
SHOWN = 3  # questions of the file, with as many hits
_DEEPEST = 100  # hits among which an expected entry is looked for


def run(
    output_dir: str | Path | None = None,  # where to leave the tuned model, in `model`, and the index, in `index`
    *,
    seed: int = 42,
    overwrite: bool = False,  # what an earlier run left there
    max_documents: int = 3_200,  # to tune on, 2 at least
    max_pairs: int = 400,  # to measure on, 50 at least
) -> dict:
    """Tune the embedded model for search on docstrings, measure it on docstrings of other modules, and ask questions.

    What is measured: the first sentence of a docstring is a query, the rest of it the passage to be found, among the
    rests of all held-out docstrings and among the 20 that are most alike by TF-IDF. No module has docstrings in both
    parts, and the recipe never asks for the rest by the first sentence. The questions of ``questions.json`` were
    written, each with the entries that answer it, before anything was found with them. Takes less than two minutes on
    two CPU cores and needs no network.

    Returns:
        ``before``, ``after`` and ``tfidf``, each with mean reciprocal ranks ``mrr`` and ``mrr_look_alikes``;
        ``evidence``, the fields of an `Evidence`; ``questions``, each with ``question``, ``expected`` ids, the best of
        their ``ranks`` by mode of search (None beyond 100) and its best three ``hits`` by both; numbers of
        ``docstrings``, ``tuned_on``, ``pairs`` and ``steps``; ``seconds``; ``recipe``; ``model``, its path or None.
    """
    start = time.perf_counter()
    model_dir = None
    if output_dir is not None:
        model_dir = Path(output_dir) / "model"
        refuse_model(model_dir, overwrite)
        refuse_taken(Path(output_dir) / "index", overwrite)
        model_dir.mkdir(parents=True, exist_ok=True)  # now, rather than fail after a minute
    docstrings = read_docstrings()
    training, pairs = split(docstrings, seed)
    pairs = random.Random(seed).sample(pairs, min(max_pairs, len(pairs)))
    firsts, rests = map(list, zip(*pairs, strict=True))
    parts = Parts(firsts, rests, np.arange(len(pairs)), "first sentence and the rest")
    names = [docstring.name for docstring in docstrings]
    texts = [f"{docstring.name}: {docstring.first}" for docstring in docstrings]  # short answers, as questions are
    model = load_model(embedded_model_path())
    logger.info(f"Ranking {len(pairs):,} held-out docstrings before tuning ...")
    before = measure(model, parts)
    logger.info(f"Tuning on {min(max_documents, len(training)):,} docstrings of other modules ...")
    # What is measured here says more than the few documents that a guard could set aside.
    tuning = mirror_tune(
        model,
        load_corpus(training, max_texts=max_documents, seed=seed)[0],
        RECIPE,
        output_dir=model_dir,
        max_texts=max_documents,
        seed=seed,
        guard=False,
        overwrite=overwrite,
        epochs=1,
    )
    if tuning.interrupted:
        raise KeyboardInterrupt
    logger.info(f"Ranking {len(pairs):,} held-out docstrings after tuning ...")
    after = measure(model, parts)
    logger.info(f"Indexing {len(docstrings):,} docstrings ...")
    # By its folder, where there is one, so that the index knows its model.
    index = SearchIndex.build(model_dir or model, texts, ids=names, language="english")
    if output_dir is not None:
        index.save(Path(output_dir) / "index", overwrite=overwrite)
    evidence = judge(before, after, parts, seed=seed)
    return {
        **{
            name: {"mrr": ranks["everywhere"], "mrr_look_alikes": ranks["among look-alikes"]}
            for name, ranks in (("before", evidence.before), ("after", evidence.after), ("tfidf", evidence.words))
        },
        "evidence": asdict(evidence),
        "questions": _answered(index),
        "docstrings": len(docstrings),
        "tuned_on": tuning.texts,
        "pairs": len(pairs),
        "steps": tuning.steps,
        "seconds": time.perf_counter() - start,
        "recipe": RECIPE,
        "model": None if model_dir is None else str(model_dir),
    }


def _answered(index: SearchIndex) -> list[dict]:
    asked = read_questions()
    found = {mode: index.search([one["question"] for one in asked], _DEEPEST, mode=mode) for mode in MODES}
    return [
        {
            **one,
            "ranks": {mode: _rank(found[mode][number], one["expected"]) for mode in MODES},
            "hits": [{"id": hit.id, "score": hit.score, "text": hit.text} for hit in found["both"][number][:SHOWN]],
        }
        for number, one in enumerate(asked)
    ]


def read_questions() -> list[dict]:
    """Questions about Python's standard library, each with the ids of the entries that answer it."""
    return json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8"))


def _rank(hits: list[Hit], expected: list[str]) -> int | None:
    return next((place for place, hit in enumerate(hits, start=1) if hit.id in expected), None)
