"""How well does a masked language model predict text that it has not seen? In nats a token; in nats a character, by
which vocabularies compare roughly (of a word in more pieces, more is seen when one is hidden); and in examples.

    python evaluate.py --model model --text heldout.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from pretrain import Hide, loss_of
from text import paragraphs, token_stream
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertForMaskedLM, pipeline

LENGTH, SHARE, BATCH = 128, 0.15, 32
EXAMPLES = [
    "Paris is the capital of [MASK].",
    "She opened the [MASK] and looked out at the garden.",
    "The patient was treated with [MASK] for the infection.",
    "Water boils at one hundred [MASK].",
    "He plays the [MASK] in a rock band.",
]


@torch.inference_mode()
def nats(path: str, text: Path, rows: int | None = None) -> dict[str, float]:
    """Mean loss of hidden tokens, and that times tokens a character.

    Args:
        path: Folder of a ModernBERT masked language model.
        text: Held-out text.
        rows: Of 128 tokens, to look at; by default all.
    """
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: ModernBertForMaskedLM = AutoModelForMaskedLM.from_pretrained(path).eval()
    stream = torch.from_numpy(token_stream(text, tokenizer).astype("int64"))
    characters = sum(len(paragraph) + 1 for paragraph in paragraphs(text))
    inside = LENGTH - 2
    if len(stream) < inside:
        raise ValueError(f"{str(text)!r} has {len(stream)} tokens; {inside} at least are needed.")
    blocks = stream[: len(stream) // inside * inside].view(-1, inside)[:rows]
    ids = torch.nn.functional.pad(blocks, (1, 0), value=tokenizer.cls_token_id)
    ids = torch.nn.functional.pad(ids, (0, 1), value=tokenizer.sep_token_id)
    hide, draw = Hide(tokenizer, SHARE, "cpu"), torch.Generator().manual_seed(0)
    losses = [loss_of(model, hide(part, draw)) * len(part) for part in ids.split(BATCH)]
    token = float(torch.stack(losses).sum() / len(ids))
    return {"nats a token": token, "nats a character": token * len(stream) / characters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, nargs="+", help="folders")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    for path in args.model:
        found = nats(path, args.text, args.rows)
        print(f"{path}: " + ", ".join(f"{value:.3f} {name}" for name, value in found.items()))
        fill = pipeline("fill-mask", model=path, device="cpu")
        for example in EXAMPLES:
            found = fill(example.replace("[MASK]", fill.tokenizer.mask_token))
            print(f"  {example}  {', '.join(one['token_str'] for one in found[:5])}")


if __name__ == "__main__":
    main()
