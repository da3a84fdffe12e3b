"""Embedding a corpus and a query: ours beside the host's `encode` with its defaults, in turn, in float32.

- ``index ...``: `SearchIndex.build` (exact), which embeds, checks and stores, beside `encode` of the same texts.
- ``one query``: as `SearchIndex.search` embeds it (the model is verified to be unchanged), beside `encode` of it.

Corpora are the paper's 10,000 sentences (9,281 distinct) and Cranfield's documents, title and text. The ratio is
the median of the ratios of the rounds; the difference is the largest of any coordinate of a unit vector.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.common import MODELS, add_data, keep, model_path, paper_sentences, parser, read_table
from benchmarks.markdown import source, table
from sentence_transformers_mirror import SearchIndex
from sentence_transformers_mirror.search.encoder import Encoder

QUERIES = 200


def cranfield(data: Path) -> list[str]:
    rows = read_table(data / "retrieval/cranfield.docs.tsv.gz")
    return [text for row in rows if (text := f"{row['title']} {row['text']}".strip())]


def in_turn(ours: Callable[[list[str]], object], host: Callable[[list[str]], object], rounds: list[list[str]]) -> dict:
    """Seconds of both with the texts of each round, who begins changing from round to round."""
    times: dict[str, list[float]] = {"ours": [], "host": []}
    contestants = [("ours", ours), ("host", host)]
    for texts in rounds:
        for name, work in contestants:
            start = time.perf_counter()
            work(texts)
            times[name].append(time.perf_counter() - start)
        contestants.reverse()
    ratios = [host / ours for host, ours in zip(times["host"], times["ours"], strict=True)]
    return {"ratio": statistics.median(ratios), **{name: statistics.median(found) for name, found in times.items()}}


def measure(name: str, corpora: dict[str, list[str]], rounds: int) -> list[dict]:
    model = SentenceTransformer(model_path(name), device="cpu")
    rows = []
    for corpus, texts in corpora.items():
        difference = Encoder(model).documents(texts) - model.encode(texts, normalize_embeddings=True)
        row = in_turn(partial(SearchIndex.build, model), model.encode, rounds * [texts])
        rows.append(
            {"what": f"index {corpus}", "texts": len(texts), **row, "difference": float(abs(difference).max())}
        )
        print(name, rows[-1], flush=True)
    encoder = Encoder(model)
    queries = next(iter(corpora.values()))[:QUERIES]
    difference = encoder.queries(queries) - model.encode(queries, normalize_embeddings=True)
    row = in_turn(encoder.queries, model.encode, [[query] for query in queries])
    rows.append({"what": "one query", "texts": 1, **row, "difference": float(abs(difference).max())})
    print(name, rows[-1], flush=True)
    return [{"model": name, **row} for row in rows]


def section(kept: dict) -> str:
    rows = [
        {
            "model": row["model"],
            "what": row["what"],
            "texts": f"{row['texts']:,}",
            "ours, s": f"{row['ours']:.4g}",
            "encode, s": f"{row['host']:.4g}",
            "encode / ours": f"{row['ratio']:.2f}",
            "largest difference": f"{row['difference']:.1e}",
        }
        for row in kept["result"]["rows"]
    ]
    return (
        "## Embedding\n\n`SearchIndex.build` (embeds, checks, stores) beside the host's `encode` with its defaults, "
        "and one query; in turn, float32, medians of rounds. The difference is that of a coordinate of unit vectors: "
        f"the order of additions.\n\n{table(rows)}\n{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--models", nargs="+", default=["embedded", "all-MiniLM-L6-v2"], help=MODELS)
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--texts", type=int, help="of each corpus, for a quick look")
    args = args.parse_args()
    corpora = {"sentences": paper_sentences(args.data), "documents": cranfield(args.data)}
    corpora = {name: texts[: args.texts] for name, texts in corpora.items()}
    rows = [row for name in args.models for row in measure(name, corpora, args.rounds)]
    result = {"threads": torch.get_num_threads(), "rows": rows}
    print(section(keep("encode_speed", result, args.output)))


if __name__ == "__main__":
    main()
