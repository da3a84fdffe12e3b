"""Long documents of one domain: tune on their sentences, and ask held-out documents whether that helped.

python examples/domain_corpus.py documents.txt tuned-model [--model bert-base-uncased]

One document a line. A document's first sentence should find the rest of it; that needs no labels.
"""

from __future__ import annotations

import argparse

from sentence_transformers import SentenceTransformer
from sentencex import segment

from sentence_transformers_mirror import embedded_model_path, load_corpus, mirror_tune
from sentence_transformers_mirror.ranking import reciprocal_ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    args = parser.parse_args()

    documents, _ = load_corpus(args.documents)
    split = documents.train_test_split(test_size=0.2, seed=0)
    sentences, report = load_corpus(split["train"], split_sentences=True)
    print(f"{len(split['train'])} documents to tune on: {report.kept} sentences; left out: {report.dropped or 'none'}")

    held_out = [list(segment("en", text)) for text in split["test"]["text"]]
    pairs = [(first, " ".join(rest)) for first, *rest in held_out if rest]
    if not pairs:
        raise SystemExit("The held-out documents are of one sentence each: there is no structure to ask.")

    def mean_reciprocal_rank(model: SentenceTransformer) -> float:
        first, rest = (model.encode(list(texts)) for texts in zip(*pairs, strict=True))
        return float(reciprocal_ranks(first, rest).mean())

    model = SentenceTransformer(args.model)
    before = mean_reciprocal_rank(model)
    mirror_tune(model, sentences, output_dir=args.output)
    after = mean_reciprocal_rank(model)
    print(f"mean reciprocal rank on {len(pairs)} held-out documents: {before:.3f}, tuned {after:.3f}")


if __name__ == "__main__":
    main()
