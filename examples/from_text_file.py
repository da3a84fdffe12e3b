"""Tune a model on a text file, a text a line, and save it.

python examples/from_text_file.py texts.txt tuned-model [--model bert-base-uncased]
"""

from __future__ import annotations

import argparse

from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import embedded_model_path, mirror_tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    args = parser.parse_args()

    model = SentenceTransformer(args.model)
    result = mirror_tune(model, args.texts, output_dir=args.output)
    print(f"{result.steps} steps in {result.seconds:.0f} s, loss {result.losses[0]:.2f} to {result.losses[-1]:.2f}")
    print(f"{result.texts} texts used; left out: {result.dropped or 'none'}; truncated: {result.truncated:.0%}")


if __name__ == "__main__":
    main()
