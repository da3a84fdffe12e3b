"""Words and phrases: the recipe `word` for single words, `phrase` for names of several, and what lies next to what.

python examples/words_and_phrases.py words.txt tuned-model [--recipe word|phrase] [--model bert-base-uncased]

A word or phrase a line.
"""

from __future__ import annotations

import argparse

from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import SearchIndex, embedded_model_path, load_corpus, mirror_tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts")
    parser.add_argument("output")
    parser.add_argument("--recipe", choices=["word", "phrase"], default="word")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    args = parser.parse_args()

    texts, _ = load_corpus(args.texts)
    model = SentenceTransformer(args.model)
    mirror_tune(model, texts, args.recipe, output_dir=args.output)
    index = SearchIndex.build(model, texts)
    for text in texts["text"][:5]:
        neighbours = [hit for hit in index.search(text, top_k=4) if hit.text != text][:3]
        print(f"{text}: " + ", ".join(f"{hit.text} {hit.score:.2f}" for hit in neighbours))


if __name__ == "__main__":
    main()
