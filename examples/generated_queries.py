"""Questions that a language model writes for texts tune a model, and others judge it.

python examples/generated_queries.py texts.txt tuned [--generate "ollama run qwen3"] [--model bert-base-uncased]

The command reads a prompt and prints a question. Without it a stand-in takes the four longest words of each text,
which shows the way and teaches little. A fifth of the texts is set aside, and the questions about these judge.
"""

from __future__ import annotations

import argparse
import random
import shlex
import subprocess
import tempfile
from collections.abc import Callable

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from sentence_transformers_mirror import MirrorLoss, compare, embedded_model_path, generated_queries, load_corpus


def longest_words(prompt: str) -> str:
    words = dict.fromkeys(prompt.split("Text: ")[1].split())
    return " ".join(sorted(words, key=len, reverse=True)[:4])


def command(line: str) -> Callable[[str], str]:
    """A function that asks a program, which reads the prompt and prints the answer."""

    def generate(prompt: str) -> str:
        return subprocess.run(shlex.split(line), input=prompt, capture_output=True, text=True, check=True).stdout

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts")
    parser.add_argument("output")
    parser.add_argument("--generate", metavar="COMMAND", help="reads a prompt and prints a question")
    parser.add_argument("--model", default=embedded_model_path(), help="default: the embedded model")
    parser.add_argument("-k", type=int, default=10, help="keep a question that finds its text among the first k")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    generate = longest_words if args.generate is None else command(args.generate)
    texts = load_corpus(args.texts)[0]["text"][:]
    random.Random(0).shuffle(texts)
    held_out, texts = texts[: len(texts) // 5], texts[len(texts) // 5 :]
    before, model = SentenceTransformer(args.model), SentenceTransformer(args.model)
    pairs, report = generated_queries(texts, generate, model, k=args.k)
    print(f"{report.kept} of {report.read} questions are kept; left out: {report.dropped or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=args.batch_size,
                num_train_epochs=1,
                learning_rate=2e-5,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=pairs,
            loss=MirrorLoss(model, temperature=0.05),
        ).train()
    model.save_pretrained(args.output)
    judged, asked = generated_queries(held_out, generate)
    print(f"{asked.kept} questions about {asked.read} other texts judge it")
    if asked.kept >= 50:  # `compare` says nothing of fewer
        told = list(zip(judged["query"], judged["passage"], strict=True))
        print(compare(before, model, told, structure="title").summary())


if __name__ == "__main__":
    main()
