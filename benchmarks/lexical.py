"""Which lexical library a search by words should stand on: ours beside bm25s, SQLite's FTS5 and tantivy.

A million short texts (sentences of a text corpus, xz), no stemming, one thread. For each: CPU seconds to build, bytes
on disk, CPU milliseconds a query (median; ten hits) for the three longest words of a text, and for its first twelve.
Each is called directly; tantivy's package is not installed with ours.
"""

from __future__ import annotations

import lzma
import re
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.common import keep, parser
from benchmarks.markdown import source, table
from sentence_transformers_mirror.search import words

Search = Callable[[str], list[int]]


def ours(texts: list[str], folder: Path) -> Search:
    parts = tuple(words.postings(pa.chunked_array([pa.array(texts, pa.large_string())]), None))
    for number, part in enumerate(parts):
        with pa.ipc.new_file(folder / f"{number}.arrow", part.table.schema) as file:
            file.write_table(part.table)
    lexicon = words.Lexicon(parts, None, None)
    return lambda query: words.best(lexicon.weighed(words.terms_of(query, None)), len(lexicon), 10, None)[1].tolist()


def bm25s(texts: list[str], folder: Path) -> Search:
    import bm25s

    found = bm25s.BM25()
    tokens = bm25s.tokenize(texts, stopwords=None, token_pattern=r"\w+", show_progress=False)
    found.index(tokens, show_progress=False)
    found.save(folder)

    def search(query: str) -> list[int]:
        asked = bm25s.tokenize(query, stopwords=None, token_pattern=r"\w+", return_ids=False, show_progress=False)
        return found.retrieve(asked, k=10, show_progress=False).documents[0].tolist()

    return search


def fts5(texts: list[str], folder: Path) -> Search:
    base = sqlite3.connect(folder / "fts.db")
    base.execute("create virtual table t using fts5(text, content='', tokenize='unicode61 remove_diacritics 0')")
    base.executemany("insert into t(rowid, text) values (?, ?)", enumerate(texts))
    base.execute("insert into t(t) values ('optimize')")
    base.commit()

    def search(query: str) -> list[int]:
        asked = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
        return [
            row for row, _ in base.execute("select rowid, rank from t where t match ? order by rank limit 10", [asked])
        ]

    return search


def tantivy(texts: list[str], folder: Path) -> Search:
    import tantivy

    schema = tantivy.SchemaBuilder().add_text_field("text").add_integer_field("row", stored=True, fast=True).build()
    index = tantivy.Index(schema, path=str(folder))
    writer = index.writer(num_threads=1)
    for row, text in enumerate(texts):
        writer.add_document(tantivy.Document(text=text, row=row))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(query: str) -> list[int]:
        asked = index.parse_query(" ".join(re.findall(r"\w+", query.lower())), ["text"])
        return [searcher.doc(place)["row"][0] for _, place in searcher.search(asked, 10).hits]

    return search


LIBRARIES = {"ours": ours, "bm25s": bm25s, "fts5": fts5, "tantivy": tantivy}


def sentences(corpus: Path, count: int) -> list[str]:
    """The first sentences of a corpus."""
    texts: list[str] = []
    with lzma.open(corpus, "rt", encoding="utf-8") as file:
        for line in file:
            texts += [one for one in re.split(r"(?<=[.!?]) ", line.strip()) if one]
            if len(texts) >= count:
                break
    return texts[:count]


def measure(name: str, texts: list[str], asked: dict[str, list[str]]) -> dict[str, float]:
    """One library; queries are asked by what they are."""
    folder = Path(tempfile.mkdtemp())
    start = time.process_time()
    search = LIBRARIES[name](texts, folder)
    found = {
        "build, CPU s": round(time.process_time() - start, 1),
        "MiB": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 1),
    }
    for label, queries in asked.items():
        seconds = []
        for query in [queries[0], *queries]:  # the first is not counted
            start = time.process_time()
            search(query)
            seconds.append(time.process_time() - start)
        found[label] = round(1000 * statistics.median(seconds[1:]), 2)
    shutil.rmtree(folder)
    return found


def section(kept: dict) -> str:
    result = kept["result"]
    rows = [{"": name, **found} for name, found in result["libraries"].items()]
    return (
        f"## What a search by words stands on\n\n{result['texts']:,} short texts, one thread.\n\n{table(rows)}\n"
        f"{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--corpus", type=Path, required=True, help="a text a line, xz")
    args.add_argument("--texts", type=int, default=1_000_000)
    args.add_argument("--libraries", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    args = args.parse_args()
    texts = sentences(args.corpus, args.texts)
    rng = np.random.default_rng(0)
    asked = [texts[row] for row in rng.integers(len(texts), size=400).tolist()]
    telling = [" ".join(sorted(re.findall(r"\w+", one), key=len)[-3:]) for one in asked[:200]]
    whole = [" ".join(re.findall(r"\w+", one)[:12]) for one in asked[200:]]
    queries = {"long words, ms": telling, "first 12 words, ms": whole}
    result: dict[str, object] = {"texts": len(texts), "libraries": {}}
    for name in args.libraries:
        result["libraries"][name] = measure(name, texts, queries)
        print(name, result["libraries"][name], flush=True)
        kept = keep("lexical", result, args.output)
    print(section(kept))


if __name__ == "__main__":
    main()
