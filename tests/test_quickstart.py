from __future__ import annotations

import ast
import random
import socket
import sysconfig
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import Hit, SearchIndex, quickstart
from sentence_transformers_mirror.texts.docstrings import Docstring, read_docstrings, sentences, split

ASTRAY = [
    "How long do I boil an egg?",
    "Who won the football match yesterday?",
    "What is the capital of Peru?",
    "Is it going to rain in Lisbon tomorrow?",
    "Which trees lose their leaves in autumn?",
    "Why do cats purr?",
    "What did the parliament decide about pensions?",
    "When was the first railway opened in England?",
    "Symptoms of a broken ankle",
    "How high is the tax on tobacco?",
]
DOCSTRING = """copyfile(src, dst) -> None

Copy data from src to dst, e.g. in the
most efficient way possible. If dst exists, it is replaced!

>>> copyfile("a", "b")
this is what the example prints out

See shutil.copytree() for folders.  Nothing.

   name    type    =====  ------  | default | 12 | 14 |
"""


def test_prose_is_kept_and_the_rest_is_not():
    assert sentences(DOCSTRING) == [
        "Copy data from src to dst, e.g. in the most efficient way possible.",
        "If dst exists, it is replaced!",
        "See shutil.copytree() for folders.",
    ]


def test_docstrings_are_read_and_nothing_is_imported(tmp_path):
    source = '''
    """This module must never be imported."""
    raise SystemExit
    class Box:
        """A box with things in it. It can be opened and closed."""
        def open(self):
            """Open the box and look inside."""
        open.setter
        def open(self, value):
            """Set whether the box is open."""
        def _lock(self):
            """Lock the box against all others."""
        async def wait(self):
            """Wait until somebody opens the box."""
        def close(self):
            """Close it."""
    '''
    for name in ("pkg/__init__.py", "pkg/test/test_box.py", "site-packages/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source.replace("\n    ", "\n"))
    (tmp_path / "broken.py").write_text("def f(:\n    '''This is no valid Python file.'''")
    (tmp_path / "latin.py").write_bytes("'''Here is an é in Latin-1, undeclared.'''".encode("latin-1"))
    (tmp_path / "zero.py").write_bytes(b"'''There is a zero byte \0 in this file.'''")
    file = "pkg/__init__.py"
    assert read_docstrings(tmp_path) == [
        Docstring(file, "pkg", "This module must never be imported.", ()),
        Docstring(file, "pkg.Box", "A box with things in it.", ("It can be opened and closed.",)),
        Docstring(file, "pkg.Box.open", "Open the box and look inside.", ()),
        Docstring(file, "pkg.Box.wait", "Wait until somebody opens the box.", ()),
    ]


def test_a_python_without_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Python source"):
        read_docstrings(tmp_path)


def test_no_module_and_no_sentence_on_both_sides():
    words = [f"word{i}" for i in range(400)]
    rng = random.Random(0)
    docstrings = [
        Docstring(f"{i % 30}.py", f"m.f{i}", rng.choice(words), tuple(rng.choices(words, k=rng.randrange(3))))
        for i in range(300)
    ]
    sizes = set()
    for seed in range(20):
        training, pairs = split(docstrings, seed)
        assert (training, pairs) == split(docstrings, seed)
        assert len(set(training)) == len(training)
        held_out = [word for pair in pairs for text in pair for word in text.split()]
        assert not set(held_out) & {word for text in training for word in text.split()}
        sizes.add(len(pairs))
    assert len(sizes) > 1


def test_questions_have_answers_in_every_python():
    asked = quickstart.read_questions()
    names = {docstring.name for docstring in read_docstrings()}
    assert len(asked) >= 10 and len({one["question"] for one in asked}) == len(asked)
    assert all(names.intersection(one["expected"]) for one in asked)
    hits = [Hit(name, 1.0, "", {}, None, None, None, None) for name in "bac"]
    assert quickstart._rank(hits, ["c", "a"]) == 2 and quickstart._rank(hits[:1], ["a"]) is None


@pytest.fixture
def no_network(monkeypatch):
    attempts = []

    def connect(self, address):
        attempts.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return attempts


@pytest.mark.quality
def test_tuning_helps_on_modules_that_were_not_tuned_on(tmp_path, monkeypatch, no_network):
    docstrings = read_docstrings()
    assert 8_000 < sum(1 + len(docstring.rest) for docstring in docstrings) < 20_000
    # A part, for time: every second module; with a hundred pairs chance would be as large as what eight steps gain.
    files = sorted({docstring.file for docstring in docstrings})[::2]
    monkeypatch.setattr(quickstart, "read_docstrings", lambda: [d for d in docstrings if d.file in files])
    monkeypatch.chdir(tmp_path)
    result = quickstart.run("out", max_documents=1_920)
    assert result["tuned_on"] == 1_920 and result["steps"] == 30 and 250 < result["pairs"] <= 400
    assert result["recipe"] == "search" and result["evidence"]["verdict"] in ("better", "no evidence")
    assert result["after"]["mrr"] > result["before"]["mrr"]
    assert result["after"]["mrr_look_alikes"] > result["before"]["mrr_look_alikes"]
    for ranks in (result["before"], result["after"], result["tfidf"]):
        assert 0 < ranks["mrr"] < ranks["mrr_look_alikes"] < 1

    assert not no_network
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    index = SearchIndex.load("out/index", model=SentenceTransformer(result["model"], device="cpu"))
    assert [one["question"] for one in result["questions"]] == [one["question"] for one in quickstart.read_questions()]
    for one in result["questions"]:
        for mode, rank in one["ranks"].items():
            hits = index.search(one["question"], top_k=100, mode=mode)
            places = [place for place, hit in enumerate(hits, start=1) if hit.id in one["expected"]]
            assert rank == min(places, default=None)
        assert [hit["id"] for hit in one["hits"]] == [hit.id for hit in hits[:3]]
    # Some of the modules that answer are not read here, but not all of them.
    for mode in ("meaning", "words", "both"):
        assert sum(one["ranks"][mode] is not None for one in result["questions"]) >= 3
    # Most of what is asked in plain words is above chance in this corpus, and most of what is not in it is not.
    index.calibrate()
    asked = [one["question"] for one in result["questions"]]
    found, astray = ([bool(hits) for hits in index.search(some, threshold="auto")] for some in (asked, ASTRAY))
    assert sum(found) > 0.6 * len(asked) and sum(astray) < 0.4 * len(ASTRAY)


def test_the_library_itself_splits_into_prose():
    path = Path(sysconfig.get_paths()["stdlib"], "shutil.py")
    tree = ast.parse(path.read_bytes())
    copytree = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "copytree")
    first, *rest = sentences(ast.get_docstring(copytree))
    assert first.startswith("Recursively copy a directory tree")
    assert len(rest) > 5 and not any("\n" in sentence or ">>>" in sentence for sentence in rest)
