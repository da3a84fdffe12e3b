"""The command line, ``st-mirror``: the calls of the package as verbs.

Arguments are parsed by the standard library, and everything heavy is imported by the verb that needs it: help and
complaints about arguments come at once, and not after torch has been loaded.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sentence_transformers_mirror import __version__
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.recipes import RECIPES, resolve

if TYPE_CHECKING:
    from sentence_transformers_mirror.tuning import TuningResult

_SUITES = ["sts", "words", "linking", "all"]
_STRUCTURES = ["auto", "first", "title", "halves", "neighbours", "single"]
_KINDS = ["auto", "flat", "hnsw", "ivf-flat", "ivf-sq8", "ivf-pq"]
# What the package calls its arguments, as the shell does.
_FLAGS = {
    r"\bcolumn=": "--column",
    r"\boverwrite=True": "--force",
    r"\bkeep_worse=True": "--keep-worse",
    r"\bguard=True": "--guard",
    r"\bguard=None": "no --guard",
    r"\bPass max_texts\b": "Pass --max-texts",
    r"\bmax_texts\b": "--max-texts",
    r"\bsplit_sentences=True": "--split-sentences",
    r"\braise max_length\b": "pass --set max_length=N",
    r"pass SearchIndex\.load\(path, model=\.\.\.\)": "pass --model",
    r"load it without a model, call rebuild\(model\), and save it": "index the texts again",
    r"\bpass dataset\[column\]": "name it with --column",
    r"\bdimensions must be\b": "--dimensions must be",
    r"\btop_k\b": "--top-k",
    r"\bmode='(\w+)'": r"--mode \1",
    r"\bbuild with passages=": "build with --passages ",
    r"\bpassages is the number\b": "--passages is the number",
    r"\bcandidates must be\b": "--candidates must be",
    r"\bweight (says|is the share)\b": r"--weight \1",
}
NO_HITS, USAGE, BROKEN_INDEX, UNEXPECTED, INTERRUPTED = 1, 2, 3, 70, 130


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code: 0, 1 after a search without hits, 2 after bad input, 3 if an index is broken or no index, 70
        after a bug, 130 after Ctrl-C.

    Raises:
        SystemExit: With code 0 after ``--help`` and ``--version``, 2 after arguments that cannot be parsed.
    """
    args = _parser().parse_args(argv)
    handler = logging.StreamHandler()  # to stderr: with --json, stdout is for the object alone
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("sentence_transformers_mirror").setLevel(logging.INFO)
    try:
        code = args.verb(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads the output has had enough; at its end Python would try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _complain("error: the output was closed before all of it was written.")
        return USAGE
    except Exception as error:
        if args.debug:
            raise
        message, code = _told(error)
        _complain(f"error: {message}")
        return code


def _told(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code: the one place that all errors pass."""
    # What the package raises about input and machine; it names the cure.
    if isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        store = sys.modules.get(f"{__package__}.search.errors")
        broken = store is not None and isinstance(error, store.BrokenIndexError)
        return _in_flags(str(error)), BROKEN_INDEX if broken else USAGE
    if isinstance(error, MemoryError):
        return "there is not enough memory: give fewer texts.", USAGE
    return f"{type(error).__name__}: {error} (a bug; --debug shows where)", UNEXPECTED


def _in_flags(message: str) -> str:
    for argument, flag in _FLAGS.items():
        message = re.sub(argument, flag, message)
    return message


def _complain(message: str) -> None:
    if sys.stderr is not None:
        print(f"st-mirror: {printable(' '.join(message.split()))}", file=sys.stderr)


class _Printable(logging.Formatter):
    """What is logged may quote data."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, _in_flags(super().format(record)).splitlines()))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object instead of a summary")
    common.add_argument("--debug", action="store_true", help="show where an error comes from")

    seeded = argparse.ArgumentParser(add_help=False)
    seeded.add_argument("--seed", type=int, default=42, help="of everything drawn at random (default: %(default)s)")

    parser = argparse.ArgumentParser(
        prog="st-mirror", description="Better sentence-transformers from raw text alone.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"st-mirror {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    tune = verbs.add_parser(
        "tune", parents=[seeded, common], help="tune a model on a file of texts", allow_abbrev=False
    )
    tune.set_defaults(verb=_tune)
    tune.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    tune.add_argument(
        "--texts",
        required=True,
        help="txt file (a text a line), csv, tsv, json, jsonl or parquet; or Markdown, reStructuredText or HTML, a "
        "file or a folder of them, where a heading is the title of what stands below it",
    )
    tune.add_argument("--output", required=True, metavar="DIR", help="where to save the tuned model")
    tune.add_argument("--force", action="store_true", help="replace a model that is in --output")
    tune.add_argument("--recipe", default="sentence", help=f"{', '.join(RECIPES)} (default: %(default)s)")
    tune.add_argument("--column", help="which column holds the texts, if there are several")
    tune.add_argument("--title", metavar="COLUMN", help='which column holds their titles (default: "title", if any)')
    tune.add_argument("--max-texts", type=int, default=20_000, metavar="N", help="sample more (default: %(default)s)")
    tune.add_argument("--prompt", help="put before each text, as the model is used with")
    tune.add_argument("--split-sentences", action="store_true", help="tune on the sentences of the texts")
    tune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace a value of the recipe, such as learning_rate=1e-4; can be given several times",
    )

    tune.add_argument(
        "--guard",
        action=argparse.BooleanOptionalAction,
        help="set texts aside to see whether tuning helps, and take it back if it harms (default: where texts are of "
        "several sentences)",
    )
    tune.add_argument("--keep-worse", action="store_true", help="keep a tuned model that the guard found worse")

    quickstart = verbs.add_parser(
        "quickstart",
        parents=[seeded, common],
        help="tune the embedded model on Python's own documentation and search in it; takes two minutes",
        allow_abbrev=False,
    )
    quickstart.set_defaults(verb=_quickstart)
    quickstart.add_argument("--output", metavar="DIR", help="where to leave the tuned model and the index")
    quickstart.add_argument("--force", action="store_true", help="replace what is in --output")
    evaluate = verbs.add_parser(
        "evaluate", parents=[common], help="score a model on a folder of labelled sets", allow_abbrev=False
    )
    evaluate.set_defaults(verb=_evaluate)
    evaluate.add_argument("model", metavar="MODEL", help="folder, or name in the Hugging Face hub")
    evaluate.add_argument("--data", required=True, metavar="DIR", help="folder of the sets, as published or as tsv")
    evaluate.add_argument("--suite", default="all", help="sts, words, linking or all (default: %(default)s)")
    evaluate.add_argument("--output", metavar="FILE", help="keep the scores with versions, machine and command, JSON")
    compare = verbs.add_parser(
        "compare",
        parents=[seeded, common],
        help="say whether a tuned model is better on texts without labels",
        allow_abbrev=False,
    )
    compare.set_defaults(verb=_compare)
    compare.add_argument("before", metavar="BEFORE", help="folder, or name in the Hugging Face hub")
    compare.add_argument("after", metavar="AFTER", help="folder, or name in the Hugging Face hub")
    compare.add_argument("--texts", required=True, help="documents that were not tuned on: a file, as for tune")
    compare.add_argument("--column", help="which column holds the texts, if there are several")
    compare.add_argument(
        "--title", metavar="COLUMN", help="which column holds their titles; --structure title asks them"
    )
    compare.add_argument(
        "--structure", default="auto", help="auto, first, title, halves, neighbours or single (default: %(default)s)"
    )
    compare.add_argument("--labels", metavar="DIR", help="folder of labelled sets, for the report")
    compare.add_argument("--output", metavar="FILE", help="write a report, HTML (needs matplotlib, the extra `plot`)")
    compare.add_argument("--plots", metavar="DIR", help="write the pictures of the report, PNG")
    _add_index_verbs(verbs)
    return parser


def _add_index_verbs(verbs: argparse._SubParsersAction) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, as is done into a pipe")
    common.add_argument("--debug", action="store_true", help="show where an error comes from")
    texts = argparse.ArgumentParser(add_help=False)
    texts.add_argument("--texts", required=True, help="txt file (a text a line), csv, tsv, json, jsonl or parquet")
    texts.add_argument("--column", help='which column holds the texts (default: "text")')
    texts.add_argument("--ids", metavar="COLUMN", help="which column holds the ids (default: they are numbered)")
    texts.add_argument(
        "--metadata", metavar="COLUMN", action="append", default=[], help="keep a column; can be given several times"
    )

    def add(name: str, verb: Callable[[argparse.Namespace], int], words: str, *parents: argparse.ArgumentParser):
        parser = verbs.add_parser(name, parents=[common, *parents], help=words, allow_abbrev=False)
        parser.set_defaults(verb=verb)
        return parser

    index = add("index", _index, "index the texts of a file", texts)
    index.add_argument("--model", required=True, help="folder, or name in the Hugging Face hub")
    index.add_argument("--output", required=True, metavar="DIR", help="where to write the index")
    index.add_argument("--force", action="store_true", help="replace an index that is in --output")
    index.add_argument(
        "--kind", default="auto", help="auto, flat, hnsw, ivf-flat, ivf-sq8, ivf-pq or a factory string of FAISS"
    )
    index.add_argument("--dimensions", type=int, metavar="N", help="keep N dimensions of a Matryoshka model")
    index.add_argument("--language", help="stem words for a search by words, such as english (default: as they are)")
    index.add_argument("--passages", type=int, metavar="N", help="cut texts into passages of at most N tokens")

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", help="the model that built the index (default: from where it was then)")
    grow = add("add", _add, "add the texts of a file to an index", texts, model)
    search = add("search", _search, "search an index; exit code 1 if nothing is found", model)
    search.add_argument("--top-k", type=int, default=10, metavar="N", help="hits wanted (default: %(default)s)")
    search.add_argument(
        "--threshold",
        help='least cosine of a hit, or "auto": above chance in this corpus; least BM25 with --mode words',
    )
    search.add_argument("--mode", default="meaning", help="meaning, words or both (default: %(default)s)")
    search.add_argument("--weight", type=float, metavar="W", help="of meaning with --mode both, 0 to 1")
    search.add_argument("--fusion", default="convex", help="how both become one: convex or rrf (default: %(default)s)")
    search.add_argument("--rerank", metavar="MODEL", help="a CrossEncoder that orders the hits, folder or name")
    search.add_argument(
        "--candidates", type=int, default=50, metavar="N", help="hits that --rerank looks at (default: %(default)s)"
    )
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="metadata that a hit must have; several keys must all be met, one key several times by any value",
    )
    info = add("info", _info, "describe an index")
    verify = add("verify", _verify, "read and verify every byte of an index; exit code 3 if it is broken")
    demo = add("demo", _demo, "serve a web page to search an index (needs gradio, the extra `demo`)", model)
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    demo.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    for verb in (grow, search, info, verify, demo):
        verb.add_argument("index", metavar="DIR", help="folder of the index")
    search.add_argument("query", help="what to search for")


def _check_texts(args: argparse.Namespace, *columns: str | None) -> None:
    """Complain about a file or its columns before anything heavy is loaded."""
    from sentence_transformers_mirror.files import column_names, read_rows

    names, rows = column_names(Path(args.texts), read_rows(Path(args.texts), []))
    if not names and next(rows, None) is None:
        raise ValueError(f"There is no text in {args.texts!r}.")
    for flag, name in (("--column", args.column), *(("a flag", column) for column in columns)):
        if name is not None and name not in names:
            there = ", ".join(map(printable, names))
            raise ValueError(f"{args.texts!r} has no column {name!r}, which {flag} names; the columns are {there}.")


def _check_choice(flag: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"There is no {flag[2:]} {value!r}; {flag} is one of {', '.join(choices)}.")


def _check_output(output: str | None) -> None:
    """Make the folder of a file, so that nothing is computed that cannot be kept."""
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "ab"):  # says what is wrong with it
            pass


def _tune(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.saving import refuse_model

    recipe = resolve(args.recipe, **dict(map(_override, args.set)))
    if args.max_texts < 2:
        raise ValueError(f"--max-texts must be at least 2, not {args.max_texts}.")
    _check_texts(args, args.title)
    refuse_model(args.output, args.force)
    _quiet()
    from sentence_transformers_mirror.corpus import load_corpus
    from sentence_transformers_mirror.tuning import mirror_tune

    # Here and not by mirror_tune, which has no say in columns.
    texts, report = load_corpus(
        args.texts,
        column=args.column,
        title=args.title,
        max_texts=args.max_texts,
        seed=args.seed,
    )
    result = mirror_tune(
        args.model,
        texts,
        recipe,
        output_dir=args.output,
        max_texts=args.max_texts,
        seed=args.seed,
        prompt=args.prompt,
        guard=args.guard,
        keep_worse=args.keep_worse,
        overwrite=args.force,
        split_sentences=args.split_sentences,
    )
    if args.json:
        print(json.dumps({**asdict(result), "dropped": report.dropped, "read": report.read, "model": args.output}))
    else:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items()) or "none"
        print(
            f"{'Stopped by Ctrl-C after' if result.interrupted else 'Tuned'} {result.steps} steps in "
            f"{result.seconds:.0f} s ({result.precision}, recipe {args.recipe})\n"
            f"  loss       {_first_to_last(result.losses)}\n"
            f"  texts      {report.kept:,} of {report.read:,} (left out: {left_out})\n"
            f"  truncated  {result.truncated:.1%} of the texts are longer than {result.recipe.max_length} tokens\n"
            f"  guard      {_guarded(result)}\n"
            f"  saved to   {args.output}\n\n"
            f"Use it:\n  from sentence_transformers import SentenceTransformer\n"
            f"  model = SentenceTransformer({args.output!r})"
        )
    return INTERRUPTED if result.interrupted else 0


def _guarded(result: TuningResult) -> str:
    found = result.evidence
    if found is None:
        return "none (the texts are single sentences, or fewer than 500 to 700)" if result.steps else "none"
    averaged = ", averaged with the original ones," if result.averaged else ""
    kept = f"the weights of step {result.kept_step}{averaged} are kept"
    if not result.kept_step:
        kept = "the original weights are back"
    return (
        f"{found.verdict} on {found.documents} texts set aside: mean reciprocal rank {found.difference:+.3f} "
        f"({found.low:+.3f} to {found.high:+.3f}); {kept}; measuring took {result.guard_seconds:.0f} s"
    )


def _override(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        raise ValueError(f"--set takes NAME=VALUE with a number, True, False or None, not {text!r}.") from None


def _first_to_last(losses: list[float]) -> str:
    """Of ten steps each, or the half of a shorter run: single steps are noisy."""
    span = max(1, min(10, len(losses) // 2))
    if not losses:
        return "none"
    return f"{sum(losses[:span]) / span:.3f} -> {sum(losses[-span:]) / span:.3f} (first and last {span} steps)"


def _quickstart(args: argparse.Namespace) -> int:
    _quiet()
    from sentence_transformers_mirror import quickstart

    result = quickstart.run(args.output, seed=args.seed, overwrite=args.force)
    if args.json:
        print(json.dumps(result))
        return 0
    found = result["evidence"]
    print(
        f"Tuned the embedded model for search on {result['tuned_on']:,} of {result['docstrings']:,} docstrings of "
        f"Python's library: {result['steps']} steps,\n{result['seconds']:.0f} s in all.\n\n"
        f"Does the first sentence of a docstring find the rest of it? Mean reciprocal rank on {result['pairs']:,}\n"
        "docstrings of modules that were not tuned on:\n\n"
        f"{'':15}among all   among look-alikes"
    )
    for key, name in (("before", "before tuning"), ("after", "after tuning"), ("tfidf", "words (TF-IDF)")):
        print(f"{name:15}{result[key]['mrr']:9.3f}{result[key]['mrr_look_alikes']:20.3f}")
    print(
        f"\nVerdict: {found['verdict']} ({found['difference']:+.3f}, 95% {found['low']:+.3f} to {found['high']:+.3f})"
    )
    asked = result["questions"]
    right = {mode: sum(one["ranks"][mode] in (1, 2, 3) for one in asked) for mode in asked[0]["ranks"]}
    print(
        f"\nOf {len(asked)} questions {right['meaning']} find a right answer among the first three by meaning, "
        f"{right['words']} by words and {right['both']} by both; the first {quickstart.SHOWN}, by both:"
    )
    for answer in result["questions"][: quickstart.SHOWN]:
        print(f"\n{answer['question']}")
        for hit in answer["hits"]:
            print(f"  {hit['score']:.2f}  {hit['text']}")
    if args.output is None:
        print("\nNothing was kept; `st-mirror quickstart --output DIR` keeps the model and the index.")
    else:
        index = shlex.quote(os.path.join(args.output, "index"))
        print(
            f"\nKept in {args.output}: the tuned model in `model`, the index in `index`. Ask it more:\n"
            f'  st-mirror search {index} "How do I sort a list?" --mode both\n'
            f"  st-mirror demo {index}"
        )
    print("Now your own: st-mirror tune --model MODEL --texts FILE --output DIR")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    _check_choice("--suite", args.suite, _SUITES)
    if not Path(args.data).is_dir():
        raise FileNotFoundError(f"There is no folder {args.data!r}: name the one that holds the labelled sets.")
    _check_output(args.output)
    _quiet()
    from sentence_transformers_mirror.environment import environment
    from sentence_transformers_mirror.evaluation import evaluate

    scores = evaluate(args.model, args.data, args.suite)
    kept = {
        "environment": environment(),
        "model": args.model,
        "suite": args.suite,
        "scores": [asdict(score) for score in scores],
    }
    if args.output is not None:
        Path(args.output).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(kept))
        return 0
    for score in scores:
        value = "absent" if score.value is None else f"{score.value:.2f}"
        print(f"{score.suite:8}  {score.name:18}  {score.metric:15}  {value:>7}  {score.size or '':>6}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    if args.output is None and (args.labels or args.plots):
        raise ValueError("--labels and --plots are for the report: add --output report.html.")
    _check_choice("--structure", args.structure, _STRUCTURES)
    _check_texts(args, args.title)
    _check_output(args.output)
    _quiet()
    from sentence_transformers_mirror.corpus import load_corpus
    from sentence_transformers_mirror.evidence import compare

    dataset = load_corpus(args.texts, column=args.column, title=args.title)[0]
    texts = dataset["text"]
    if args.title is not None and "title" in dataset.column_names:
        texts = list(zip(dataset["title"], texts, strict=True))
    if args.output is None:
        found = compare(args.before, args.after, texts, structure=args.structure, seed=args.seed)
    else:
        from sentence_transformers_mirror.report import write_report
        from sentence_transformers_mirror.tuning import HISTORY

        history = Path(args.after, HISTORY)
        losses = _losses(history) if history.is_file() else []
        found = write_report(
            args.before,
            args.after,
            texts,
            args.output,
            labels=args.labels,
            losses=losses,
            plots=args.plots,
            structure=args.structure,
            seed=args.seed,
        )
    if args.json:
        print(json.dumps(asdict(found)))
        return 0
    print(
        f"{found.verdict}: mean reciprocal rank {found.difference:+.3f} (95% interval {found.low:+.3f} to "
        f"{found.high:+.3f})\n{found.pairs:,} pairs of {found.documents:,} texts: {found.structure}\n\n"
        f"{'':15}everywhere   among look-alikes"
    )
    for name, numbers in (("before", found.before), ("after", found.after), ("words (TF-IDF)", found.words)):
        print(f"{name:15}{numbers['everywhere']:10.3f}{numbers['among look-alikes']:20.3f}")
    if args.output is not None:
        print(f"\nreport: {args.output}")
    return 0


def _losses(history: Path) -> list[float]:
    """Of a tuned model, for the report; none if the file was written by something else."""
    try:
        losses = json.loads(history.read_text(encoding="utf-8"))["losses"]
        return [float(loss) for loss in losses]
    except (ValueError, TypeError, KeyError, RecursionError):
        logging.getLogger(__package__).warning(f"{str(history)!r} holds no losses; the report goes without.")
        return []


def _index(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex, store
    from sentence_transformers_mirror.search.entries import columns

    _check_kind(args.kind)
    if args.dimensions is not None and args.dimensions < 1:
        raise ValueError(f"--dimensions must be at least 1, not {args.dimensions}.")
    store.refuse_taken(args.output, args.force)
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise OSError(f"The index could not be saved in {args.output}: it is a file; name a folder.")
    skipped: list[str] = []
    texts, ids, metadata = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
    _quiet()
    index = SearchIndex.build(
        args.model,
        texts,
        ids=ids,
        metadata=metadata,
        kind=args.kind,
        dimensions=args.dimensions,
        language=args.language,
        passages=args.passages,
        path=args.output,
        overwrite=args.force,
    )
    _tell(args, {**index.facts(), "skipped": len(skipped)}, f"{index.describe()}\nsaved to {args.output}")
    _tell_skipped(skipped)
    return 0


def _check_kind(kind: str) -> None:
    """Complain about what FAISS cannot read; whether it suits the texts is seen when they are there."""
    if kind not in _KINDS:
        from sentence_transformers_mirror.search import ann

        ann.check_factory(kind)


def _tell_skipped(skipped: list[str]) -> None:
    if skipped:
        _complain(f"{len(skipped):,} rows have no text and are left out, first {skipped[0]}")


def _add(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search.entries import columns

    skipped: list[str] = []
    entries = columns(Path(args.texts), args.column, args.ids, args.metadata, skipped)
    index = _opened(args)
    added = index.add(*entries)
    index.save(args.index)
    facts = {"added": len(added), "texts": len(index), "skipped": len(skipped)}
    _tell(args, facts, f"{len(added):,} texts added, {len(index):,} in all")
    _tell_skipped(skipped)
    return 0


def _search(args: argparse.Namespace) -> int:
    threshold = args.threshold
    if threshold not in (None, "auto"):
        try:
            threshold = float(threshold)
        except ValueError:
            raise ValueError(f'--threshold is a number from -1 to 1 or "auto", not {threshold!r}.') from None
    where: dict[str, list] = {}
    for condition in args.where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise ValueError(f"--where takes KEY=VALUE, not {condition!r}.")
        where.setdefault(key, []).append(value)
        try:
            meant = json.loads(value)  # 7 is meant as the number or as the string
            if not isinstance(meant, (list, dict)):  # which no condition can ask for
                where[key].append(meant)
        except (ValueError, RecursionError):
            pass
    if args.top_k < 1:
        raise ValueError(f"--top-k must be at least 1, not {args.top_k}.")
    from sentence_transformers_mirror.scalars import whole_number
    from sentence_transformers_mirror.search import fusion

    _check_choice("--mode", args.mode, list(fusion.MODES))
    _check_choice("--fusion", args.fusion, list(fusion.FUSIONS))
    fusion.check(args.mode, args.weight, args.fusion)
    whole_number(args.candidates, "candidates", 1)
    if args.mode == "words":
        if threshold == "auto" or (threshold is not None and not threshold >= 0):
            raise ValueError(f"--threshold is a BM25 score with --mode words, a number from 0, not {threshold}.")
    elif threshold not in (None, "auto") and not -1 <= threshold <= 1:
        raise ValueError(f'--threshold is a number from -1 to 1 or "auto", not {threshold}.')
    hits = _opened(args, where, embeds=args.mode != "words").search(
        args.query,
        top_k=args.top_k,
        threshold=threshold,
        where=where or None,
        mode=args.mode,
        weight=args.weight,
        fusion=args.fusion,
        rerank=args.rerank,
        candidates=args.candidates,
    )
    if args.json or not sys.stdout.isatty():
        for hit in hits:
            told = {name: getattr(hit, name) for name in ("id", "score", "meaning", "words", "text", "metadata")}
            if hit.span is not None:
                told.update(passage=hit.passage, span=hit.span)
            print(json.dumps(told))
    else:
        _print_table(hits)
    return 0 if hits else NO_HITS


def _print_table(hits: list) -> None:
    import shutil

    rows = [
        (f"{hit.score:.3f}", hit.id, hit.text if hit.passage is None else hit.passage, hit.metadata or "")
        for hit in hits
    ]
    cells = [list(map(printable, row)) for row in rows]
    width = max((len(row[1]) for row in cells), default=0)
    for score, item, text, metadata in cells:
        line = f"{score}  {item:{min(width, 30)}.30}  {text}  {metadata}".rstrip()
        print(line[: shutil.get_terminal_size().columns])
    if not hits:
        _complain("nothing was found")


def _info(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    index = SearchIndex.open(args.index)
    _tell(args, index.facts(), index.describe())
    return 0


def _verify(args: argparse.Namespace) -> int:
    from sentence_transformers_mirror.search import SearchIndex

    found = SearchIndex.verify(args.index)
    _tell(args, found, f"whole: {found['texts']:,} texts, {found['files']} files, {found['bytes']:,} bytes")
    return 0


def _demo(args: argparse.Namespace) -> int:
    if args.port is not None and not 0 < args.port < 65_536:
        raise ValueError(f"--port is a number from 1 to 65535, not {args.port}.")
    from sentence_transformers_mirror.demo import serve

    serve(_opened(args), args.host, args.port)
    return 0


def _opened(args: argparse.Namespace, where: dict | None = None, embeds: bool = True):
    """The index with its model, every byte verified; what is broken is found before a model is loaded.

    The index may come from anybody. It does not choose what is fetched from the network, and what it names is said.
    A search by words needs no model.
    """
    from sentence_transformers_mirror.search import SearchIndex, filters

    if not embeds:
        return SearchIndex.load(args.index)
    opened = SearchIndex.open(args.index)
    if where:
        filters.mask(opened._snapshot, where)  # complains about keys that are not there
    name = opened.facts()["model"]
    if args.model is None and name is None:
        raise ValueError("The index does not know which model built it: pass --model.")
    _quiet()
    model = args.model
    if model is None:
        from sentence_transformers_mirror.models import load_model

        _complain(f"the index was built by the model {name!r}, which is loaded")
        try:
            model = load_model(name, local=True)
        except OSError as error:
            if Path(name).exists():
                raise
            raise OSError(
                f"The model {name!r}, which the index names, could not be loaded from this machine: pass --model, "
                "with its name to fetch it from the hub."
            ) from error
    return SearchIndex.load(args.index, model=model)


def _tell(args: argparse.Namespace, facts: dict, words: str) -> None:
    print(json.dumps(facts) if args.json or not sys.stdout.isatty() else "\n".join(map(printable, words.splitlines())))


def _quiet() -> None:
    """Silence what other libraries report about every model they load, but keep their errors and the hub's bars."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
