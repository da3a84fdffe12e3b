"""From raw text to search on every machine that has Python: the documentation strings of its standard library."""

from __future__ import annotations

import ast
import logging
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentencex import segment
from tqdm.auto import tqdm

from sentence_transformers_mirror import embedded_model_path
from sentence_transformers_mirror.ranking import look_alikes, reciprocal_ranks, tfidf_reciprocal_ranks
from sentence_transformers_mirror.search import SearchIndex
from sentence_transformers_mirror.tuning import mirror_tune

logger = logging.getLogger(__name__)

RECIPE = "sentence"
QUESTIONS = (
    "How do I open a file for writing?",
    "How can I copy a whole folder with everything in it?",
    "How do I wait until a thread has finished?",
)

# Third-party packages, tests, and programs that come along with the library.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?")


def run(
    output_dir: str | Path | None = None, *, seed: int = 42, max_sentences: int = 4_000, max_pairs: int = 400
) -> dict:
    """Tune the embedded model on docstrings, measure it on docstrings of other modules, and ask three questions.

    What is measured: the first sentence of a docstring is a query, the rest of it the passage to be found, among the
    rests of all held-out docstrings and among the 20 that are most alike by TF-IDF. No module has docstrings in both
    parts. Takes one to two minutes on two CPU cores and needs no network.

    Args:
        output_dir: Where to leave the tuned model (``model``) and the index (``index``).
        seed: Of the split, the samples and the tuning.
        max_sentences: Sentences to tune on, at least 2; more are sampled.
        max_pairs: Held-out docstrings to measure on; more are sampled.

    Returns:
        ``before``, ``after`` and ``tfidf``, each a dictionary of mean reciprocal ranks, ``mrr`` and
        ``mrr_look_alikes``, in (0, 1]; ``hits``, for each question its best three ``id``, ``score`` and ``text``;
        ``sentences`` read and ``tuned_on``; ``pairs`` measured; ``steps``; ``seconds`` of it all; ``recipe``;
        ``model``, the path of the tuned model or None if it was not kept.

    Raises:
        FileNotFoundError: If this Python comes without the source of its standard library.
        OSError: If the output folder cannot be written.
        KeyboardInterrupt: On Ctrl-C.
    """
    start = time.perf_counter()
    model_dir = None if output_dir is None else Path(output_dir) / "model"
    if model_dir is not None:
        model_dir.mkdir(parents=True, exist_ok=True)  # now, rather than fail after a minute
    docstrings = read_docstrings()
    training, pairs = split(docstrings, seed)
    pairs = random.Random(seed).sample(pairs, min(max_pairs, len(pairs)))
    queries, passages = map(list, zip(*pairs, strict=True))
    rivals = look_alikes(passages)

    def measured(name: str) -> dict[str, float]:
        logger.info(f"Ranking {len(pairs):,} held-out docstrings {name} ...")
        vectors = [model.encode(texts, show_progress_bar=True) for texts in (queries, passages)]
        return _means(reciprocal_ranks(*vectors), reciprocal_ranks(*vectors, rivals))

    model = SentenceTransformer(embedded_model_path())
    before = measured("before tuning")
    logger.info(f"Tuning on {min(max_sentences, len(training)):,} sentences of other modules ...")
    tuning = mirror_tune(model, training, RECIPE, output_dir=model_dir, max_texts=max_sentences, seed=seed)
    if tuning.interrupted:
        raise KeyboardInterrupt
    after = measured("after tuning")
    logger.info(f"Indexing {len(docstrings):,} docstrings ...")
    texts = [f"{docstring.name}: {docstring.first}" for docstring in docstrings]
    index = SearchIndex.build(model, texts, ids=[docstring.name for docstring in docstrings], show_progress=True)
    if output_dir is not None:
        index.save(Path(output_dir) / "index")
    hits = index.search(QUESTIONS, top_k=3)
    return {
        "before": before,
        "after": after,
        "tfidf": _means(tfidf_reciprocal_ranks(queries, passages), tfidf_reciprocal_ranks(queries, passages, rivals)),
        "hits": [
            {"question": question, "hits": [asdict(hit) for hit in found]}
            for question, found in zip(QUESTIONS, hits, strict=True)
        ],
        "sentences": sum(1 + len(docstring.rest) for docstring in docstrings),
        "tuned_on": tuning.texts,
        "pairs": len(pairs),
        "steps": tuning.steps,
        "seconds": time.perf_counter() - start,
        "recipe": RECIPE,
        "model": None if model_dir is None else str(model_dir),
    }


def _means(everywhere: np.ndarray, among_look_alikes: np.ndarray) -> dict[str, float]:
    return {"mrr": float(everywhere.mean()), "mrr_look_alikes": float(among_look_alikes.mean())}


@dataclass(frozen=True)
class Docstring:
    """The prose of one documentation string.

    Attributes:
        file: Module file it stands in, relative to the library.
        name: What it documents, such as ``shutil.copyfile``.
        first: Its first sentence.
        rest: The other sentences; there may be none.
    """

    file: str
    name: str
    first: str
    rest: tuple[str, ...]


def read_docstrings(library: str | Path | None = None) -> list[Docstring]:
    """The documentation strings of a folder of modules, read from the source without importing anything.

    Args:
        library: The folder; by default the standard library of the running Python.

    Returns:
        One entry for each public name with at least one sentence of prose about it, in the order of the files.

    Raises:
        FileNotFoundError: If there is no source with docstrings in the folder.
    """
    library = Path(library or sysconfig.get_paths()["stdlib"])
    found: dict[str, Docstring] = {}
    for path in tqdm(sorted(library.rglob("*.py")), desc="Reading docstrings", unit="file"):
        file = path.relative_to(library)
        if _SKIPPED.intersection(file.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, and files in other encodings
            continue
        module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        for name, text in _documented(tree, module):
            if prose := sentences(text):
                # Getter and setter of a property, and other definitions of one name: the first is the one to read.
                found.setdefault(name, Docstring(file.as_posix(), name, prose[0], tuple(prose[1:])))
    if not found:
        raise FileNotFoundError(
            f"There is no Python source with docstrings in {str(library)!r}; use a Python that comes with the source "
            "of its standard library, as those of python.org, conda and uv do."
        )
    return list(found.values())


def split(docstrings: list[Docstring], seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Two thirds of the module files to tune on, the others to measure on.

    Args:
        docstrings: Of `read_docstrings`.
        seed: Of the choice of files.

    Returns:
        The distinct sentences of the training part; and of each docstring of the held-out part that has more than one
        sentence the first and the rest, as one string, all distinct and none with a sentence of the training part.
    """
    files = sorted({docstring.file for docstring in docstrings})
    held_out = set(random.Random(seed).sample(files, len(files) // 3))
    training = dict.fromkeys(sentence for d in docstrings if d.file not in held_out for sentence in (d.first, *d.rest))
    seen = set(training)
    pairs = []
    for d in docstrings:
        rest = " ".join(d.rest)
        if d.file in held_out and d.rest and seen.isdisjoint((d.first, rest, *d.rest)):
            pairs.append((d.first, rest))
            seen.update((d.first, rest))
    return list(training), pairs


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}")


def sentences(docstring: str) -> list[str]:
    """The sentences of a docstring, without signatures, examples, tables and fragments."""
    found = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = []
        for line in map(str.strip, paragraph.splitlines()):
            if line.startswith((">>>", "$ ")):
                break  # what an example prints goes on to the end of the paragraph
            if not _SIGNATURE.fullmatch(line):
                lines.append(line)
        found += filter(_is_prose, map(str.strip, segment("en", " ".join(lines))))
    return found


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character in " '" for character in text)
    return len(text.split()) >= 4 and len(text) <= 400 and letters >= 0.85 * len(text)
