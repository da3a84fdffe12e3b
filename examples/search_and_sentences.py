"""One model for search and for similarity: steps of `search` over documents and of `sentence` over sentences, in turn.

python examples/search_and_sentences.py documents.csv sentences.txt tuned-model [--model bert-base-uncased]

Both recipes read their texts as often as they do alone, and their steps are spread evenly over one run. That keeps
more of both gains than one recipe after the other (docs/tuning-for-search.md).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device

from sentence_transformers_mirror import RECIPES, MirrorLoss, dropout_rate, embedded_model_path, load_corpus
from sentence_transformers_mirror.training.recipes import learning_rate_for

SEARCH, SENTENCE = RECIPES["search"], RECIPES["sentence"]


def batches(rows: Sequence, size: int, epochs: int, draw: random.Random) -> list[list]:
    """Whole batches of rows that are shuffled anew in each epoch; one may hold the end of an epoch and more."""
    order = [row for _ in range(epochs) for row in draw.sample(rows, len(rows))]
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]


def tune_in_turn(
    model: SentenceTransformer,
    documents: Sequence[tuple[str, str]],
    sentences: Sequence[str],
    *,
    seed: int = 0,
    bf16: bool = False,
    epochs: int = SEARCH.epochs,
) -> dict[str, int]:
    """Tune a model in place; gives the steps of each recipe.

    Args:
        model: The model.
        documents: Pairs of title and text; a title may be empty.
        sentences: Texts.
        seed: Seed for the order, the views and dropout.
        bf16: Whether to compute in bfloat16.
        epochs: How often documents are read; sentences are read once.

    Raises:
        ValueError: If there are fewer documents (64) or sentences (200) than a step needs.
    """
    if len(documents) < SEARCH.batch_size or len(sentences) < SENTENCE.batch_size:
        raise ValueError(
            f"Steps need {SEARCH.batch_size} documents and {SENTENCE.batch_size} sentences, and there are "
            f"{len(documents)} and {len(sentences)}: give more."
        )
    random.seed(seed)
    torch.manual_seed(seed)
    draw, own_length, limit = random.Random(seed), model.max_seq_length, model.max_seq_length or SEARCH.max_length
    losses = {
        "search": MirrorLoss(model, SEARCH.temperature, mask=None, labels_are_ids=True),
        "sentence": MirrorLoss(model, SENTENCE.temperature),
    }
    work = {
        "search": batches(documents, SEARCH.batch_size, epochs, draw),
        "sentence": batches(sentences, SENTENCE.batch_size, SENTENCE.epochs, draw),
    }
    steps = sorted(
        ((number + 0.5) / len(rows), name, batch) for name, rows in work.items() for number, batch in enumerate(rows)
    )
    top = learning_rate_for(sum(parameter.numel() for parameter in model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=SEARCH.weight_decay)
    model.train()
    with dropout_rate(model, 0.1):  # as both recipes ask
        for place, name, rows in steps:
            if name == "search":
                views = SEARCH.views({"title": [title for title, _ in rows], "text": [text for _, text in rows]})
                columns, labels = [views["anchor"], views["positive"]], torch.tensor(views["label"])
                model.max_seq_length = min(SEARCH.max_length, limit)
                rate = top * min(place / SEARCH.warm_up, (1 - place) / (1 - SEARCH.warm_up))
            else:
                columns, labels, rate = [rows], None, SENTENCE.learning_rate
                model.max_seq_length = min(SENTENCE.max_length, limit)
            for group in optimizer.param_groups:
                group["lr"] = rate
            features = [batch_to_device(model.preprocess(column), model.device) for column in columns]
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                loss = losses[name](features, None if labels is None else labels.to(model.device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.max_seq_length = own_length
    model.eval()
    return {name: len(rows) for name, rows in work.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", help="a table with the column text, and perhaps title; or a folder")
    parser.add_argument("sentences", help="a sentence a line")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, where the processor has it")
    args = parser.parse_args()

    read = load_corpus(args.documents)[0]
    titles = read["title"] if "title" in read.column_names else [""] * len(read)
    model = SentenceTransformer(args.model).float()
    documents, sentences = [*zip(titles, read["text"], strict=True)], [*load_corpus(args.sentences)[0]["text"]]
    steps = tune_in_turn(model, documents, sentences, bf16=args.bf16)
    model.save_pretrained(args.output)
    print(f"{steps['search']} steps of `search` and {steps['sentence']} of `sentence`, in turn")


if __name__ == "__main__":
    main()
