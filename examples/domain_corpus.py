"""Long documents of one domain: tune on their sentences, and ask held-out documents whether that helped.

python examples/domain_corpus.py documents.txt tuned-model [--model bert-base-uncased]

One document a line. A document's first sentence should find the rest of it; that needs no labels.
"""

from __future__ import annotations

import argparse

from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import compare, embedded_model_path, load_corpus, mirror_tune


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

    before, model = SentenceTransformer(args.model), SentenceTransformer(args.model)
    mirror_tune(model, sentences, output_dir=args.output)
    found = compare(before, model, split["test"]["text"])
    print(
        f"{found.verdict}: mean reciprocal rank {found.difference:+.3f} (95% interval {found.low:+.3f} to "
        f"{found.high:+.3f}) on {found.documents} held-out documents"
    )


if __name__ == "__main__":
    main()
