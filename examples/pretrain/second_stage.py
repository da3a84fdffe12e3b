"""Teach a base model to find: the recipe `search` on the documents of the text that it was pretrained on.

    python second_stage.py --model model --text corpus.txt --output encoder

A masked language model knows words and not what belongs together. This stage shows it, once and for all domains; the
recipe on one's own documents then begins further on. Documents are parted by blank lines. Batches are large, which a
GPU is needed for. At the end a quarter of the base model's weights is mixed in, which forgets less of what that one
knew (WiSE-FT, arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sentence_transformers import SentenceTransformer
from text import documents

from sentence_transformers_mirror import mirror_tune


def save_in_half(model: SentenceTransformer, folder: Path) -> None:
    """Half the size; the config says float32, which tuning further needs."""
    model.half().save_pretrained(str(folder))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a masked language model")
    parser.add_argument("--text", type=Path, required=True, help="a paragraph a line, blank lines between documents")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=16, help="views of each document (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="documents a step (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens read of a view (default: %(default)s)")
    parser.add_argument("--mixed", type=float, default=0.25, help="share of the base model's weights at the end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = SentenceTransformer(args.model)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = mirror_tune(
        model,
        documents(args.text),
        "search",
        max_texts=1_000_000,
        seed=args.seed,
        guard=False,
        epochs=args.epochs,
        batch_size=args.batch,
        learning_rate=args.rate,
        max_length=args.length,
    )
    model.load_state_dict({name: tensor.lerp(base[name], args.mixed) for name, tensor in model.state_dict().items()})
    save_in_half(model, args.output)
    print(f"{result.steps} steps on {result.texts:,} documents, {result.seconds:.0f} s; loss {result.losses[-1]:.3f}")


if __name__ == "__main__":
    main()
