"""What a search by both words and meaning costs beside what it is made of, over a million short texts.

Texts are sentences of a corpus (xz); vectors are made as in `search.py`, embedding is no part of this. Asked are
the first twelve words of a text, one query at a time, one thread; all calls answer the same query in turn, and a ratio
is the median of those within a turn:

- ``both``, ``words``, ``meaning``: `SearchIndex.search` for ten hits, each with its text read.
- ``FAISS``: the structure that our index chose, called directly for the 100 candidates that ``both`` takes.
- ``BM25``: our words called directly, and bm25s, FTS5 and tantivy where they are installed (see `lexical.py`).
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from benchmarks.common import keep, parser
from benchmarks.lexical import LIBRARIES, sentences
from benchmarks.markdown import source, table
from benchmarks.search import structured
from sentence_transformers_mirror import SearchIndex
from sentence_transformers_mirror.search import asking as of_index
from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.fusion import _CANDIDATES
from sentence_transformers_mirror.search.structure import parameters_for


def measure(texts: list[str], kind: str, queries: int, libraries: list[str]) -> dict[str, object]:
    faiss.omp_set_num_threads(1)
    vectors = structured(len(texts))
    folder = Path(tempfile.mkdtemp())
    start = time.perf_counter()
    index = SearchIndex.from_vectors(vectors, texts, kind=kind, path=folder / "index")
    built = time.perf_counter() - start
    del vectors, index
    start = time.perf_counter()
    index = SearchIndex.open(folder / "index")
    opened = time.perf_counter() - start

    rows = np.random.default_rng(0).integers(len(texts), size=queries + 1).tolist()
    asked = [" ".join(re.findall(r"\w+", texts[row])[:12]) for row in rows]
    vector_of = dict(zip(asked, structured(len(asked), seed=1), strict=True))
    of_index._vectors = lambda state, queries: np.stack([vector_of[one] for one in queries])
    start = time.perf_counter()
    index.search(asked[0], mode="both")
    first = time.perf_counter() - start

    snapshot = index._snapshot
    structure, lexicon = snapshot.loaded, snapshot.lexicon
    parameters = parameters_for(structure.index, structure.effort, {})
    depth = _CANDIDATES * structure.depth

    def read(query: str, mode: str) -> list[str]:
        (hits,) = index.search([query], mode=mode)
        return [hit.text for hit in hits]

    calls = {
        **{mode: lambda query, mode=mode: read(query, mode) for mode in ("both", "words", "meaning")},
        "FAISS": lambda query: structure.index.search(vector_of[query][None], depth, params=parameters),
        "BM25, ours": lambda query: words.best(lexicon.weighed(words.terms_of(query, None)), len(lexicon), 10, None),
        **{f"BM25, {name}": LIBRARIES[name](texts, Path(tempfile.mkdtemp(dir=folder))) for name in libraries},
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for number, query in enumerate(asked):
        for name in order:
            start = time.perf_counter()
            calls[name](query)
            if number:  # the first warms up
                times[name].append(time.perf_counter() - start)
        order.append(order.pop(0))
    parts = np.array(times["FAISS"])
    ratios = {
        name: statistics.median((np.array(times["both"]) / (parts + np.array(times[name]))).tolist())
        for name in calls
        if name.startswith("BM25")
    }
    return {
        "texts": len(texts),
        "kind": index.facts()["structure"]["kind"],
        "seconds to build": round(built, 1),
        "milliseconds to open": round(1000 * opened, 1),
        "seconds of the first search by both": round(first, 2),
        "MiB on disk": round(sum(file.stat().st_size for file in (folder / "index").iterdir()) / 2**20),
        "of it words": round(sum(f.stat().st_size for f in (folder / "index").glob("words-*")) / 2**20),
        "milliseconds a query": {name: round(1000 * statistics.median(found), 2) for name, found in times.items()},
        "both / (FAISS + BM25)": {name.removeprefix("BM25, "): round(ratio, 2) for name, ratio in ratios.items()},
    }


def section(kept: dict) -> str:
    result = kept["result"]
    times = [{"": name, "milliseconds a query": found} for name, found in result["milliseconds a query"].items()]
    facts = "; ".join(
        f"{name}: {found}" for name, found in result.items() if not isinstance(found, dict) and name != "texts"
    )
    ratios = ", ".join(f"{ratio} ({name})" for name, ratio in result["both / (FAISS + BM25)"].items())
    return (
        f"## What a search by both costs\n\n{result['texts']:,} short texts, one thread, one query at a time, without "
        f"embedding it. {facts}.\n\n{table(times)}\n`both` beside FAISS and BM25 called directly, median of the "
        f"ratios within a turn, by who counts the words: {ratios}.\n\n{source(kept['environment'])}"
    )


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--corpus", type=Path, required=True, help="a text a line, xz")
    args.add_argument("--texts", type=int, default=1_000_000)
    args.add_argument("--kind", default="auto", help="of structure, and no flat one (default: %(default)s)")
    args.add_argument("--queries", type=int, default=200)
    args.add_argument("--libraries", nargs="*", default=["bm25s"], choices=list(LIBRARIES))
    args = args.parse_args()
    result = measure(sentences(args.corpus, args.texts), args.kind, args.queries, args.libraries)
    print(section(keep("both", result, args.output)))


if __name__ == "__main__":
    main()
