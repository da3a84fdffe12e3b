"""Peak memory of one step of CachedMirrorLoss on the embedded model, by batch size.

Each batch size runs in a process of its own. The strings are disease names, seven words at most. Memory is the highest
resident size of the process; that of the model and the libraries before the step is given beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.common import add_data, alone, keep, parser, peak_memory, read_table
from benchmarks.markdown import source, table
from sentence_transformers_mirror import CachedMirrorLoss, embedded_model_path
from sentence_transformers_mirror._host import has_native_bf16


def names(data: Path, count: int) -> list[str]:
    rows = read_table(data / "biomed/dictionary_medic_2012.tsv.gz")
    short = dict.fromkeys(row["name"] for row in rows if len(row["name"].split()) <= 7)
    if len(short) < count:
        raise SystemExit(f"There are {len(short)} distinct short names and not {count}.")
    return list(short)[:count]


def measure(data: Path, rows: int, mini_batch_size: int) -> dict[str, object]:
    torch.manual_seed(0)
    model = SentenceTransformer(embedded_model_path(), device="cpu").train()
    bf16 = has_native_bf16(model.device)
    texts = names(data, rows)
    loss = CachedMirrorLoss(model, mini_batch_size=mini_batch_size)
    before = peak_memory()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss([model.preprocess(texts)])
    value.backward()
    return {
        "texts in the batch": rows,
        "peak, MB": round(peak_memory() / 1e6),
        "before the step, MB": round(before / 1e6),
        "loss": round(value.item(), 3),
        "precision": "bf16" if bf16 else "fp32",
    }


def section(kept: dict) -> str:
    result = kept["result"]
    return (
        "## Memory of large batches\n\nOne step of `CachedMirrorLoss` on the embedded model, disease names of at most "
        f"seven words, mini-batches of {result['mini-batch size']} rows.\n\n{table(result['rows'])}\n"
        f"{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--batch-sizes", nargs="+", type=int, default=[512, 4096, 65_536])
    args.add_argument("--mini-batch-size", type=int, default=64)
    args = args.parse_args()
    rows = []
    for size in args.batch_sizes:
        rows.append(alone(measure, args.data, size, args.mini_batch_size))
        print(rows[-1], flush=True)
    result = {"mini-batch size": args.mini_batch_size, "rows": rows}
    print(section(keep("batch_memory", result, args.output)))


if __name__ == "__main__":
    main()
