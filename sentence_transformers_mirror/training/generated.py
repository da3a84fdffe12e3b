"""Queries that a language model of the user's writes for texts, and a filter of those that do not lead back to them.

As in Alberti et al. (arXiv 1906.05416), for questions and answers, and Promptagator (arXiv 2209.11755), for retrieval.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.search import SearchIndex
from sentence_transformers_mirror.terminal import bar
from sentence_transformers_mirror.texts.corpus import CorpusReport, load_corpus

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PROMPT = (
    "Write one short question that the text below answers, as somebody would ask it who does not know the text. "
    "Reply with the question alone.\n\nText: {text}"
)


def generated_queries(
    texts: str | Path | Dataset | Iterable[str],
    generate: Callable[[str], str],
    model: SentenceTransformer | str | Path | None = None,
    *,
    k: int = 10,
    prompt: str = PROMPT,
    max_texts: int | None = None,
    seed: int = 42,
    show_progress: bool | None = None,
) -> tuple[Dataset, CorpusReport]:
    """Let a language model write a query for each text, and keep the pairs whose query leads back to its text.

    The two columns are what `MirrorLoss` tunes on and `compare` asks. A model that filtered its own questions is
    flattered by them: filter those of an evaluation with another model, or not at all.

    Args:
        texts: As for `load_corpus`; equal ones are one.
        generate: A function from a prompt to a query, such as a call of a language model. It is called once a text,
            one call after the other. Of what it gives, the first line that is not blank counts; "" declines.
        model: The model that must find the text, or its name or path; None keeps all pairs.
        k: A pair is kept if its text is among the first ``k`` of all texts, at least 1.
        prompt: What ``generate`` is asked, with ``{text}`` where the text goes.
        max_texts: Largest number of texts that queries are written for; more are sampled. All are searched.
        seed: Seed for the sample.
        show_progress: Whether to show progress bars; by default if standard error is a terminal.

    Returns:
        A dataset with the columns ``query`` and ``passage``; and the report, whose reasons are ``no query``,
        ``copied`` (the query is its text), ``duplicate`` (another text has it already) and ``not found``.

    Raises:
        OSError: If the model or a file cannot be read.
        TypeError: If ``generate`` gives no string.
        ValueError: If the prompt has no place for a text, there are no texts, ``k`` or ``max_texts`` is below 1, or no
            pair is left.

    Example:
        >>> from sentence_transformers_mirror import embedded_model_path, generated_queries
        >>> texts = ["Open a file for writing.", "Return the absolute value.", "Remove a folder."]
        >>> ask = lambda prompt: "How do I " + prompt.split("Text: ")[1].rstrip(".").lower() + "?"
        >>> pairs, report = generated_queries(texts, ask, embedded_model_path(), k=1)
        >>> pairs[0]
        {'query': 'How do I open a file for writing?', 'passage': 'Open a file for writing.'}
        >>> report.read, report.kept
        (3, 3)
    """
    k = whole_number(k, "k", 1)
    if "{text}" not in prompt:
        raise ValueError(f"The prompt {quoted(prompt)} has no place for a text: write {{text}} where it goes.")
    passages: list[str] = load_corpus(texts)[0]["text"][:]
    rows: Sequence[int] = range(len(passages))
    if max_texts is not None and whole_number(max_texts, "max_texts", 1) < len(rows):
        rows = sorted(random.Random(seed).sample(rows, max_texts))
    dropped = dict.fromkeys(("no query", "copied", "duplicate", "not found"), 0)
    kept: dict[str, int] = {}  # the row of the text of each query
    with bar(rows, unit=" texts", desc="Writing queries", show=show_progress) as shown:
        for row in shown:
            query = _first_line(generate(prompt.replace("{text}", passages[row])))
            if not query:
                dropped["no query"] += 1
            elif query.casefold() == passages[row].casefold():
                dropped["copied"] += 1
            elif query in kept:
                dropped["duplicate"] += 1
            else:
                kept[query] = row
    if model is not None and kept:
        index = SearchIndex.build(model, passages, kind="flat", show_progress=show_progress)
        found = index.search(list(kept), top_k=k)
        pairs_found = zip(kept.items(), found, strict=True)
        kept = {query: row for (query, row), hits in pairs_found if row in [hit.id for hit in hits]}
        dropped["not found"] = len(found) - len(kept)
    dropped = {reason: count for reason, count in dropped.items() if count}
    if not kept:
        told = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise ValueError(
            f"Of {len(rows):,} texts none has a query that is kept ({told}): look at what generate answers to the "
            "prompt, or raise k."
        )
    pairs = {"query": list(kept), "passage": [passages[row] for row in kept.values()]}
    return Dataset.from_dict(pairs), CorpusReport(len(rows), len(kept), dropped)


def _first_line(answer: object) -> str:
    """What a model said, without the blank lines, white space and quotation marks around it."""
    if not isinstance(answer, str):
        raise TypeError(f"generate gave {quoted(answer)} and no string: return the text of the answer.")
    line = next((" ".join(line.split()) for line in answer.splitlines() if line.strip()), "")
    return line[1:-1].strip() if len(line) > 1 and line[0] + line[-1] in ('""', "''", "“”", "„“", "«»") else line
