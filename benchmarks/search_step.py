"""What a step of the recipe `search` costs beside one of `sentence` of as many tokens, views included.

Both take a step in turn on the embedded model, from strings to updated weights: views, tokenizing, forward, loss,
backward, AdamW. Documents are Cranfield's abstracts with their titles, 64 a step; sentences are the paper's, as many
as have the same number of real tokens in both views together. Medians over steps, and of the ratio within a turn.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.common import add_data, keep, paper_sentences, parser
from benchmarks.markdown import source, table
from benchmarks.search_tuning import cranfield
from sentence_transformers_mirror import RECIPES, MirrorLoss, embedded_model_path
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.training.loss import groups_for
from sentence_transformers_mirror.training.trainer import give_memory_back


def measure(data: Path, steps: int, documents_a_step: int) -> dict[str, object]:
    random.seed(0)
    torch.manual_seed(0)
    titles, texts, *_ = cranfield(data)
    documents = random.sample(list(zip(titles, texts, strict=True)), len(texts))
    sentences = paper_sentences(data)
    random.shuffle(sentences)
    model = SentenceTransformer(embedded_model_path(), device="cpu").train()
    bf16 = has_native_bf16(model.device)
    search, sentence = RECIPES["search"], RECIPES["sentence"]
    losses = {
        "search": MirrorLoss(
            model,
            search.temperature,
            mask=None,
            groups=groups_for("cpu", 2 * documents_a_step, search.max_length),
            labels_are_ids=True,
        ),
        "sentence": MirrorLoss(model, sentence.temperature),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(name: str, columns: list[list[str]], length: int, labels: torch.Tensor | None = None) -> int:
        model.max_seq_length = length
        features = [model.preprocess(column) for column in columns]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = losses[name](features, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return sum(int(column["attention_mask"].sum()) for column in features)

    times: dict[str, list[float]] = {"search": [], "sentence": [], "views": []}
    counts, begin = [], 0
    for turn in range(steps + 1):
        first = turn * documents_a_step % len(documents)
        rows = (documents[first:] + documents[:first])[:documents_a_step]
        give_memory_back()
        start = time.perf_counter()
        views = search.views({"title": [title for title, _ in rows], "text": [text for _, text in rows]})
        made = time.perf_counter()
        pairs = [views["anchor"], views["positive"]]
        tokens = step("search", pairs, search.max_length, torch.tensor(views["label"]))
        ended = time.perf_counter()
        batch, left = [], tokens / 2
        while left > 0:
            batch.append(sentences[begin % len(sentences)])
            left -= len(model.tokenizer(batch[-1])["input_ids"])
            begin += 1
        give_memory_back()
        again = time.perf_counter()
        step("sentence", [batch], sentence.max_length)
        if turn:  # the first warms up
            times["sentence"].append(time.perf_counter() - again)
            times["search"].append(ended - start)
            times["views"].append(made - start)
            counts.append(tokens)
    ratios = [a / b for a, b in zip(times["search"], times["sentence"], strict=True)]
    return {
        "documents a step": documents_a_step,
        "real tokens a step": round(statistics.mean(counts)),
        "precision": "bf16" if bf16 else "fp32",
        "seconds a step of search": round(statistics.median(times["search"]), 3),
        "of it views": round(statistics.median(times["views"]), 4),
        "seconds a step of sentence": round(statistics.median(times["sentence"]), 3),
        "search / sentence": round(statistics.median(ratios), 2),
    }


def section(kept: dict) -> str:
    result = kept["result"]
    return (
        "## What a step of the recipe `search` costs\n\nBeside one of `sentence` of as many real tokens, in turn, on "
        "the embedded model, from strings to updated weights, views included; medians. Documents are Cranfield's, "
        f"{result['documents a step']} a step.\n\n{table([result])}\n{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--steps", type=int, default=16)
    args.add_argument("--documents", type=int, default=64, help="a step (default: %(default)s)")
    args = args.parse_args()
    print(section(keep("search_step", measure(args.data, args.steps, args.documents), args.output)))


if __name__ == "__main__":
    main()
