"""What a small base model should be like: `examples/pretrain` with one thing changed at a time, in equal time.

Each variant is trained from scratch on every sixth paragraph of the corpus, which is more than it reads in its
minutes, and then tuned by `sentence-small` on the paper's 10,000 sentences. Loss is in nats a character of held-out
text, by which vocabularies compare roughly; Spearman x 100 is on STS-B dev. Each finished run is kept and not run
again.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForMaskedLM

from benchmarks.common import (
    RESULTS,
    add_data,
    add_jobs,
    earlier,
    finish,
    keep,
    paper_sentences,
    parser,
    read,
    spearman,
)
from benchmarks.markdown import score, source, table
from sentence_transformers_mirror import mirror_tune
from sentence_transformers_mirror.evidence.labels import read_pairs


def example() -> list[ModuleType]:
    """The modules of `examples/pretrain`, text, pretrain and evaluate, made anew, so that what stood in for a function
    of theirs is gone. Each imports the ones before it by these names."""
    for name in ("text", "pretrain", "evaluate"):
        spec = spec_from_file_location(name, Path(__file__).parents[1] / "examples" / "pretrain" / f"{name}.py")
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return [sys.modules[name] for name in ("text", "pretrain", "evaluate")]


class Bert(BertForMaskedLM):
    """Its parts under the names that they have in a ModernBERT."""

    model = property(lambda self: self.bert)
    head = property(lambda self: self.cls.predictions.transform)
    decoder = property(lambda self: self.cls.predictions.decoder)


def bert(tokenizer, layers: int, width: int, heads: int, inner: int) -> Bert:
    """Norms after the layers, learned positions, units without gates and so wider by half."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=3 * inner // 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Bert(config)


def adamw(model: torch.nn.Module, rate: float, fused: bool) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)]


@dataclass(frozen=True)
class Variant:
    """Options of `pretrain.py`, and functions that stand in for its own."""

    options: dict[str, object] = field(default_factory=dict)
    instead: dict[str, Callable] = field(default_factory=dict)


BATCH = 16  # rows a step, of which a short time then has more
VARIANTS = {
    "as it is": Variant(),
    "AdamW for all, rate 1e-3": Variant({"rate": 1e-3}, {"optimizers": adamw}),
    "BERT, AdamW, rate 1e-3": Variant({"rate": 1e-3}, {"optimizers": adamw, "new_model": bert}),
    "vocabulary 8,192": Variant({"vocabulary": 8_192}),
    "rate 1e-3": Variant({"rate": 1e-3}),
    "3 layers x 384, inner 768": Variant({"layers": 3, "width": 384, "heads": 6, "inner": 768}),
    "12 layers x 192, inner 384": Variant({"layers": 12, "width": 192, "heads": 3, "inner": 384}),
    "30% hidden": Variant({"mask": 0.3}),
    "vocabulary 30,000": Variant({"vocabulary": 30_000}),
    "AdamW for all": Variant({}, {"optimizers": adamw}),
    "15% hidden": Variant({"mask": 0.15}),
    "40% hidden": Variant({"mask": 0.4}),
    "rows of 64": Variant({"length": 64, "batch": 2 * BATCH}),
    "rows of 256": Variant({"length": 256, "batch": BATCH // 2}),
    "steps of 64 rows": Variant({"batch": 64}),
}
# Read by a process that starts. Memory that is kept makes steps faster (examples/pretrain/README.md), and threads of a
# tokenizer would take a neighbour's time.
PROCESSES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
    "TOKENIZERS_PARALLELISM": "false",
}


def measure(
    name: str, seed: int, corpus: Path, data: Path, minutes: float, rows: int | None, max_texts: int
) -> dict[str, float]:
    """Pretrain, measure, tune and measure again."""
    _, pretrain, evaluate = example()
    variant = VARIANTS[name]
    for function, other in variant.instead.items():
        setattr(pretrain, function, other)
    if "new_model" in variant.instead:
        evaluate.AutoModelForMaskedLM = Bert
    with TemporaryDirectory() as folder:
        options = {"text": corpus, "output": folder, "minutes": minutes, "seed": seed, "batch": BATCH}
        options.update(variant.options)
        sys.argv = [
            "pretrain.py",
            *(str(part) for option, value in options.items() for part in (f"--{option}", value)),
        ]
        pretrain.main()
        state = torch.load(Path(folder, "work", "checkpoint.pt"), map_location="cpu")
        found = evaluate.nats(folder, data / "pretrain/heldout.txt.gz", rows)
        model = SentenceTransformer(folder, device="cpu")  # mean pooling, being the default
        mirror_tune(model, paper_sentences(data), "sentence-small", seed=seed, max_texts=max_texts)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": state["step"],
        **{what: round(value, 4) for what, value in found.items()},
        "STS-B dev": round(spearman(model, {"": read_pairs(data, "STS-B dev")})[""], 2),
    }


def section(kept: dict) -> str:
    result = kept["result"]

    def each(runs: dict[str, dict[str, float]], what: str) -> list[float]:
        return [run[what] for run in runs.values()]

    loss, similarity = "nats a character", "STS-B dev"
    first = next(iter(result["runs"].values()))
    rows = [
        {
            "changed": name,
            "million parameters": f"{statistics.mean(each(runs, 'parameters')) / 1e6:.1f}",
            "steps": f"{statistics.mean(each(runs, 'steps')):,.0f}",
            loss: score(each(runs, loss), 3),
            "change": f"{statistics.mean(each(runs, loss)) - statistics.mean(each(first, loss)):+.3f}",
            f"{similarity}, tuned": score(each(runs, similarity)),
            "change ": f"{statistics.mean(each(runs, similarity)) - statistics.mean(each(first, similarity)):+.2f}",
            "seeds": len(runs),
        }
        for name, runs in result["runs"].items()
    ]
    return (
        "## What a small base model should be like\n\n"
        f"`examples/pretrain` from scratch in steps of 16 rows, {result['minutes']:g} minutes a run on a part of this "
        "machine, one thing changed at a time; what is not here was not run. Parameters are those of the "
        "encoder. Loss on held-out text (less is better), by which vocabularies compare roughly; then Spearman x 100 "
        "after `sentence-small` on the paper's 10,000 sentences. Means over seeds, largest minus smallest in "
        "brackets. It tells what learns fast, which need not be what is best after hours; similarity is still below "
        f"that of weights that are nearly random (examples/pretrain/README.md).\n\n{table(rows)}\n"
        f"{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", choices=list(VARIANTS))
    args.add_argument("--minutes", type=float, default=8, help="of training, each (default: %(default)s)")
    args.add_argument("--seeds", nargs="+", type=int, default=[0])
    args.add_argument("--every", type=int, default=6, help="paragraphs, of which one is read (default: %(default)s)")
    args.add_argument("--rows", type=int, help="of held-out text, for a quick look")
    args.add_argument("--max-texts", type=int, default=10_000, help="to tune on (default: all)")
    add_jobs(args)
    args = args.parse_args()
    if args.rows and not args.output:
        raise SystemExit("--rows is for a quick look: name another --output.")
    path = args.output or RESULTS / "pretraining.json"
    kept, _ = earlier(path, {"minutes": args.minutes, "runs": {}})
    if kept["minutes"] != args.minutes:
        raise SystemExit(
            f"The runs that are kept took {kept['minutes']} minutes each; say so or name another --output."
        )
    text, _, _ = example()

    def add(task: tuple[str, str], found: dict[str, float]) -> None:
        kept["runs"].setdefault(task[0], {})[task[1]] = found
        keep("pretraining", kept, args.output)

    os.environ.update(PROCESSES)
    with TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        with corpus.open("w", encoding="utf-8") as file:
            paragraphs = enumerate(text.paragraphs(args.data / "pretrain/corpus.txt.xz"))
            file.writelines(f"{paragraph}\n" for number, paragraph in paragraphs if number % args.every == 0)
        last = corpus, args.data, args.minutes, args.rows, args.max_texts
        # All variants once before any of them again.
        tasks = {(name, str(seed)): (name, seed, *last) for seed in args.seeds for name in args.variants}
        done = {(name, seed) for name, seeds in kept["runs"].items() for seed in seeds}
        finish(tasks, done, measure, add, args.jobs)
    print(section(read(path)))


if __name__ == "__main__":
    main()
