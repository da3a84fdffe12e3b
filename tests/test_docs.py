"""What README and the documentation say: the code in them runs, their numbers are measured, and no page is missing."""

from __future__ import annotations

import argparse
import doctest
import inspect
import io
import json
import logging
import re
import shlex
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import transformers
from packaging.version import Version

import sentence_transformers_mirror
from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.errors import BrokenIndexError, ConflictError
from sentence_transformers_mirror.evidence.evaluation import Score
from sentence_transformers_mirror.evidence.verdict import Evidence

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
PUBLIC = [getattr(sentence_transformers_mirror, name) for name in sentence_transformers_mirror.__all__]
OBJECTS = [*(one for one in PUBLIC if callable(one)), BrokenIndexError, ConflictError, Evidence, Score]

FENCE = re.compile(r"^```(\S*)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVES = {"{eval-rst}", "{toctree}", "{include}", "{recipes}", "{help}"}
# What pages need beyond the tests' own packages.
NEEDS = {"langchain": "langchain_core", "milvus": "milvus_lite"}
# Commands that take minutes or stay; that they are spelled right is seen from their arguments.
NOT_RUN = {"quickstart", "demo", "--completion"}
# What needs a cluster or a server, which tests/test_scale_ray.py and tests/test_scale_milvus.py start.
ELSEWHERE = ("--engine ray", "milvus://")
NEED_MILVUS = {"MilvusSearch", "export"}


@pytest.fixture(autouse=True)
def quiet_as_before():
    """The command line quiets other libraries for good; a test must not do that to the next one."""
    import datasets
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "sentence_transformers_mirror")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    stdin = sys.stdin
    yield
    sys.stdin = stdin
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    datasets.enable_progress_bars()


def blocks(page):
    """Language and text of each block of code."""
    return [(language, code) for language, _, code in FENCE.findall(page.read_text(encoding="utf-8"))]


def prose(page):
    """Paragraphs and items of lists, without code, tables and headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. )", text):
        if not paragraph.lstrip().startswith(("#", "|", ":::")):
            yield " ".join(paragraph.split())


def tables(text):
    """Each table as rows of cells, with the text before it."""
    end = 0
    for found in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()]
        yield text[end : found.start()], [lines[0], *lines[2:]]
        end = found.end()


# ---------------------------------------------------------------------------- code


@pytest.fixture
def world(make_model, tmp_path, monkeypatch):
    """The names that pages use without making them, and a folder with the files and models that they read."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertForSequenceClassification

    monkeypatch.chdir(tmp_path)
    bert, roberta = make_model("bert"), make_model("roberta")
    for name in ("bert-base-uncased", "MODEL", "tuned"):
        bert.save_pretrained(name)
    roberta[0].auto_model.save_pretrained("cambridgeltl/mirror-roberta-base-sentence")
    roberta.tokenizer.save_pretrained("cambridgeltl/mirror-roberta-base-sentence")
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(bert.tokenizer), num_labels=1, **size)
    BertForSequenceClassification(config).save_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2")
    bert.tokenizer.save_pretrained("cross-encoder/ms-marco-MiniLM-L6-v2")

    things = ("house", "garden", "file", "window", "street", "boat")
    documents = [
        f"The {thing} number {number} was built first. Its door is open to the north. Many people came to see it."
        for number, thing in product(range(12), things)
    ]
    texts = [f"Open the {thing} number {number}." for number, thing in product(range(12), things)]
    ids, metadata = list(range(len(texts))), [{"year": 2023 + number % 3} for number in range(len(texts))]
    for name, lines in (("documents.txt", documents), ("held-out.txt", documents), ("texts.txt", texts)):
        Path(name).write_text("\n".join(lines), encoding="utf-8")
    Path("documents.csv").write_text("\n".join(["body", *documents]), encoding="utf-8")
    titled = [f"Number {number},{text}" for number, text in enumerate(documents)]
    Path("articles.csv").write_text("\n".join(["title,text", *titled]), encoding="utf-8")
    Path("reports.csv").write_text("\n".join(["headline,body", *titled]), encoding="utf-8")
    rows = [f"{one},{text},{value['year']}" for one, text, value in zip(ids, texts, metadata, strict=True)]
    Path("texts.csv").write_text("\n".join(["id,text,year", *rows]), encoding="utf-8")
    Path("more.csv").write_text("id,text,year\n100,Close the file.,2025\n", encoding="utf-8")
    Path("handbook").mkdir()
    for number, text in enumerate(documents[:12]):
        Path("handbook", f"{number}.md").write_text(f"# Number {number}\n\n{text}\n", encoding="utf-8")
    Path("labelled-sets").mkdir()
    pairs = [f"{number}\t{texts[number]}\t{texts[2 * number]}" for number in range(5)]
    Path("labelled-sets", "STSB.test.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *pairs]))
    return {
        "model": bert,
        "before": SentenceTransformer("bert-base-uncased"),
        "after": bert,
        "texts": texts,
        "sentences": texts,
        "documents": documents,
        "held_out_texts": documents,
        "ids": ids,
        "metadata": metadata,
        "more": ["Close the file.", "Close the window."],
    }


def run_in_shell(code, only_parse):
    """Run each command of the package, and see that bash can read the rest."""
    bash = None if sys.platform == "win32" else shutil.which("bash")
    if bash:
        subprocess.run([bash, "-n"], input=code, text=True, check=True)
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "|" in words and bash:
            given = subprocess.run([bash, "-c", line.partition(" | ")[0]], capture_output=True, check=True).stdout
            sys.stdin = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
            words = words[words.index("|") + 1 :]
        if ">" in words:
            words = words[: words.index(">")]
        if words[:1] == ["st-mirror"]:
            if only_parse or words[1] in NOT_RUN or any(one in line for one in ELSEWHERE):
                try:
                    arguments(words[1:])
                except SystemExit as stop:  # of what prints and ends
                    assert not stop.code, line
            else:
                assert main(words[1:]) == 0, line


def arguments(argv):
    from sentence_transformers_mirror.cli.main import parser_of_all

    return parser_of_all().parse_args(argv)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_a_page_runs(page, world):
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem], reason=f"needs the extra {page.stem}")
    names = dict(world, __name__="page")
    if re.search(r"""output(?:_dir=")?[ ]?tuned[\s"]""", page.read_text(encoding="utf-8")):
        shutil.rmtree("tuned")  # the page makes it
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "bash":
            run_in_shell(code, only_parse=page.stem == "quickstart")
        elif language == "pycon":
            names.update(check(doctest.DocTestParser().get_doctest(code, names, page.name, page.name, 0)))
        else:
            assert language in DIRECTIVES | {"text"}, f"{page.name}: a block of {language!r} that nothing runs"


def check(test):
    """Run the examples of a docstring; gives the names that they leave."""
    said = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)
    return test.globs


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: one.__name__)
def test_examples_of_docstrings_run(one, tmp_path, monkeypatch):
    if one.__name__ == "drophead" and Version(transformers.__version__) < Version("5.7"):
        pytest.skip("DropHead is refused for ModernBERT before transformers 5.7")
    if one.__name__ in NEED_MILVUS:
        pytest.importorskip("milvus_lite", reason="needs milvus-lite: pip install '.[milvus]'")
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(one, one.__name__, module=inspect.getmodule(one), globs={}):
        check(test)


def test_every_public_name_has_an_example():
    page = "".join(code for language, code in blocks(DOCS / "api.md") if language == "pycon")
    for name, one in zip(sentence_transformers_mirror.__all__, PUBLIC, strict=True):
        docstrings = [one.__doc__ or "", one.__init__.__doc__ or ""] if callable(one) else []
        assert ">>>" in "".join(docstrings) or name in page, f"{name} has no example"


def test_descriptions_of_arguments_are_phrases():
    for path in (ROOT / "sentence_transformers_mirror").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        cut_off = re.findall(r"^ +[\w, *]+: (?:Of|As of|That|Whose|For the) .*$", text, re.M)
        assert not cut_off, f"{path.name}: {cut_off}"


# ---------------------------------------------------------------------------- pages


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\.\. (?:auto\w+|py:data):: sentence_transformers_mirror\.([\w.]+)$", page, re.M))
    assert set(sentence_transformers_mirror.__all__) <= described
    assert {one.split(".")[-1] for one in described} >= {"BrokenIndexError", "ConflictError", "Evidence", "Score"}


def test_every_verb_has_its_help_on_the_page():
    from sentence_transformers_mirror.cli.main import parser_of_all

    actions = [one for one in parser_of_all()._actions if isinstance(one, argparse._SubParsersAction)]
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^```\{help\} (\w+)$", page, re.M) == list(actions[0].choices)
    assert re.findall(r"^## (\w+)$", page, re.M) == list(actions[0].choices)


def test_every_page_is_in_the_table_of_contents():
    listed = [line for language, code in blocks(DOCS / "index.md") if language == "{toctree}" for line in code.split()]
    listed = [line for line in listed if not line.startswith(":") and (DOCS / f"{line}.md").exists()]
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_point_to_something(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]*(?:#[\w-]+)?)\)", text):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page):
    """Of the headings of a page, and of the page that it includes."""
    text = page.read_text(encoding="utf-8")
    if included := re.match(r"```\{include\} (\S+)", text):
        return anchors(page.parent / included[1])
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert max(len(paragraph.split()) for paragraph in prose(README)) <= 60


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_paragraphs_of_pages_are_short(page):
    assert max((len(paragraph.split()) for paragraph in prose(page)), default=0) <= 60


# ---------------------------------------------------------------------------- numbers


def numbers(text):
    return set(re.findall(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?", text))


def section(page, anchor):
    """The text below the heading of an anchor."""
    text = page.read_text(encoding="utf-8")
    if included := re.match(r"```\{include\} (\S+)", text):
        return section(page.parent / included[1], anchor)
    for found in re.finditer(r"^(##+) (.*)$", text, re.M):
        if re.sub(r"[^\w\- ]", "", found[2].lower()).replace(" ", "-") == anchor:
            return re.split(rf"^#{{1,{len(found[1])}}} ", text[found.end() :], maxsplit=1, flags=re.M)[0]
    raise AssertionError(f"{page.name} has no heading {anchor}")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "[source](" in page.read_text(encoding="utf-8")], ids=lambda page: page.stem
)
def test_numbers_in_tables_are_those_of_their_source(page):
    checked = 0
    for before, rows in tables(page.read_text(encoding="utf-8")):
        found = re.findall(r"\[source\]\(([^)#]+)#([\w-]+)\)", before[before.rfind("\n#") + 1 :])
        if not found:
            continue
        name, anchor = found[-1]
        known = numbers(section(page.parent / name, anchor))
        for cell in (cell for row in rows[1:] for cell in row[1:]):
            if re.fullmatch(r"[-+\d.,]+", cell):
                assert cell in known, f"{page.name}: {cell} is not in {name}#{anchor}"
                checked += 1
    assert checked


def test_readme_shows_what_the_quickstart_printed():
    printed = json.loads((ROOT / "benchmarks" / "results" / "quickstart.json").read_text(encoding="utf-8"))["result"]
    shown = README.read_text(encoding="utf-8").split("```text\n")[1].split("\n```")[0]
    assert shown.count("\n") > 15 and printed["printed"].startswith(shown)


def test_tables_of_readme_say_what_was_measured():
    text = README.read_text(encoding="utf-8").split("## What it gains")[1]
    (_, gains), (_, seconds) = list(tables(text))[:2]
    results = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
    measured = next(
        rows for before, rows in tables(results) if before.rstrip().split("## ")[-1].startswith("What tuning")
    )
    columns = [measured[0].index(name) for name in gains[0]]
    by_name = {row[0]: [row[column] for column in columns] for row in measured[1:]}
    assert len(gains) > 4 and all(row == by_name[row[0]] for row in gains[1:])

    kept = ROOT / "benchmarks" / "results"
    rows = json.loads((kept / "tuning_speed_12x768.json").read_text(encoding="utf-8"))["result"]["rows"]
    step = {row["contestant"]: row["seconds per step"] for row in rows}
    rows = json.loads((kept / "gpu.json").read_text(encoding="utf-8"))["result"]["epoch"]["result"]["rows"]
    epoch = {row["contestant"]: row["seconds"] for row in rows}
    for row, (ours, host) in zip(
        seconds[1:], [(step["ours, bf16"], step["host, bf16"]), (epoch["ours"], epoch["host"])], strict=True
    ):
        assert [float(cell) for cell in row[1:]] == pytest.approx([ours, host], abs=0.005)
