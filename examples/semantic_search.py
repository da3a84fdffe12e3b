"""Tutorial: search in real text that every Python brings, with a model that is tuned on it first.

python examples/semantic_search.py index-folder [--documents 2000] [--queries 300]

The text is the documentation of Python's standard library. A question with a known answer comes for free: the first
sentence of a docstring should find the rest of it. Modules are split in two, so that nothing that is asked about was
tuned on. The recipe `search` teaches that parts of one document belong together, but never asks for the rest by the
first sentence, so that the question is a fair one.
"""

from __future__ import annotations

import argparse
import random

from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import SearchIndex, embedded_model_path, mirror_tune
from sentence_transformers_mirror.texts.docstrings import read_docstrings, split


def hit_rates(index: SearchIndex, queries: list[str]) -> tuple[float, float]:
    """Share of the queries whose own passage comes first, and among the first ten."""
    found = index.search(queries, top_k=10)
    ranks = [[hit.id for hit in hits] for hits in found]
    first = sum(ids[0] == number for number, ids in enumerate(ranks)) / len(queries)
    return first, sum(number in ids for number, ids in enumerate(ranks)) / len(queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", help="where to leave the index")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("--documents", type=int, default=2_000, help="to tune on (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=300, help="to measure with (default: %(default)s)")
    parser.add_argument("--docstrings", type=int, help="to keep in the index (default: all)")
    args = parser.parse_args()

    # 1. Real text, and questions whose answers are known.
    docstrings = read_docstrings()
    training, pairs = split(docstrings, seed=0)
    pairs = random.Random(0).sample(pairs, min(args.queries, len(pairs)))
    queries, passages = map(list, zip(*pairs, strict=True))

    # 2. An index with the model as it is.
    model = SentenceTransformer(args.model)
    index = SearchIndex.build(model, passages)
    before = hit_rates(index, queries)

    # 3. Tune in place. The index notices: its vectors are of the old model, so it is embedded anew.
    mirror_tune(model, training, "search", epochs=1, max_texts=args.documents)
    index.rebuild(model)
    after = hit_rates(index, queries)
    print(f"{len(queries)} questions      answer first   among ten")
    for name, (first, ten) in (("before tuning", before), ("after tuning", after)):
        print(f"{name:20}{first:12.3f}{ten:12.3f}")
    print("Keep the tuned model only if that helped.\n")

    # 4. The index to keep: every docstring, with metadata to filter by.
    kept = docstrings[: args.docstrings]
    names = [docstring.name for docstring in kept]
    texts = [f"{docstring.name}: {docstring.first}" for docstring in kept]
    metadata = [{"module": name.split(".")[0]} for name in names]
    index = SearchIndex.build(model, texts, ids=names, metadata=metadata)
    threshold = index.calibrate()
    index.save(args.output)

    # 5. Years later, perhaps on another machine.
    index = SearchIndex.load(args.output, model=model)
    print(index.describe(), "\n")
    for question, where in (
        ("copy a folder with everything in it", None),
        ("wait for a result", {"module": "asyncio"}),
    ):
        print(question, where or "")
        for hit in index.search(question, top_k=3, threshold=threshold, where=where):
            print(f"  {hit.score:.2f}  {hit.text}")
    index.add(["copy_all: Copy a folder with everything that is in it."], ids=["copy_all"])
    index.remove(names[0])
    index.save(args.output)
    print(f"\n{len(index):,} texts in {args.output}")


if __name__ == "__main__":
    main()
