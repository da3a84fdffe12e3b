"""The index verbs of the command line, through `main`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from test_cli import failure, quiet_as_before  # noqa: F401

from sentence_transformers_mirror import SearchIndex
from sentence_transformers_mirror.cli import main

TEXTS = ["open the file", "write the list", "the cat sat", "close the file"]


@pytest.fixture
def shell(tiny_model, tmp_path, capfd):
    """Runs a command and returns its exit code and output; the folder has a model and a table of texts."""
    tiny_model.save_pretrained(str(tmp_path / "model"))
    rows = [f"t{row},{text},{'files' if 'file' in text else 'other'},{row}" for row, text in enumerate(TEXTS)]
    (tmp_path / "texts.csv").write_text("\n".join(["name,text,topic,n", *rows]))

    def run(*arguments):
        capfd.readouterr()
        code = main([argument.replace("@", str(tmp_path)) for argument in arguments])
        return code, capfd.readouterr().out

    run.folder = tmp_path
    return run


@pytest.fixture
def indexed(shell):
    columns = ["--ids", "name", "--metadata", "topic", "--metadata", "n"]
    code, out = shell("index", "--model", "@/model", "--texts", "@/texts.csv", "--output", "@/index", *columns)
    assert code == 0 and json.loads(out)["texts"] == 4
    return shell


def hits(out):
    return [json.loads(line) for line in out.splitlines()]


def test_index_add_search_info_verify(indexed):
    code, out = indexed("search", "@/index", "open the file", "--top-k", "2")
    assert code == 0
    first, second = hits(out)
    assert first == {
        "id": "t0",
        "score": pytest.approx(1, abs=1e-5),
        "meaning": first["score"],
        "words": None,
        "text": TEXTS[0],
        "metadata": {"topic": "files", "n": 0},
    }
    assert second["score"] < 1
    (indexed.folder / "more.txt").write_text("a dog\n\na bird\n")
    assert json.loads(indexed("add", "@/index", "--texts", "@/more.txt")[1]) == {
        "added": 2,
        "texts": 6,
        "skipped": 1,
    }
    assert hits(indexed("search", "@/index", "a bird", "--top-k", "1")[1])[0]["id"] == 1
    code, out = indexed("info", "@/index")
    facts = json.loads(out)
    assert code == 0 and facts["texts"] == 6 and facts["model"] == str(indexed.folder / "model")
    code, out = indexed("verify", "@/index")
    assert code == 0 and json.loads(out)["texts"] == 6
    # what the shell made is what the library reads
    assert len(SearchIndex.load(indexed.folder / "index", indexed.folder / "model")) == 6


def test_filters_thresholds_and_no_hits(indexed):
    def found(*options):
        code, out = indexed("search", "@/index", "the cat", *options)
        assert code == (0 if out else 1)
        return {hit["id"] for hit in hits(out)}

    assert found("--where", "topic=files") == {"t0", "t3"}
    assert found("--where", "topic=files", "--where", "n=3") == {"t3"}
    assert found("--where", "n=1", "--where", "n=2") == {"t1", "t2"}
    assert found("--where", "topic=none") == set()
    assert found("--threshold", "0.9999") == set() or found("--threshold", "0.9999") < set("t0 t1 t2 t3".split())
    assert len(found("--threshold", "-1")) == 4


def test_words_both_and_a_weight(indexed):
    code, out = indexed("search", "@/index", "the file", "--mode", "words")
    assert code == 0 and hits(out) and all(hit["words"] == hit["score"] for hit in hits(out))
    shutil.rmtree(indexed.folder / "model")  # words need none
    assert indexed("search", "@/index", "the file", "--mode", "words") == (code, out)
    assert indexed("search", "@/index", "zyzzogeton", "--mode", "words")[0] == 1


def test_both_with_a_weight(indexed):
    code, out = indexed("search", "@/index", "the file", "--mode", "both", "--weight", "0", "--top-k", "2")
    by_words = hits(indexed("search", "@/index", "the file", "--mode", "words", "--top-k", "2")[1])
    assert code == 0 and [hit["id"] for hit in hits(out)] == [hit["id"] for hit in by_words]
    assert all(hit["meaning"] <= 1 and hit["words"] > 0 for hit in hits(out))
    assert hits(indexed("search", "@/index", "the file", "--mode", "both", "--fusion", "rrf")[1])


def test_passages_and_stems(indexed):
    where = ["--model", "@/model", "--texts", "@/texts.csv", "--output", "@/cut"]
    code, out = indexed("index", *where, "--passages", "2", "--language", "english")
    facts = json.loads(out)
    assert code == 0 and facts["passages"]["rows"] > facts["texts"] == 4 and facts["language"] == "english"
    (first, *_) = hits(indexed("search", "@/cut", "open files", "--mode", "words")[1])
    assert first["text"] == TEXTS[0] and first["text"][slice(*first["span"])] == first["passage"] != first["text"]


def test_a_terminal_gets_a_table(indexed, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: __import__("os").terminal_size((60, 20)))
    code, out = indexed("search", "@/index", "open the file", "--top-k", "1")
    assert code == 0 and out.startswith("1.000  t0  open the file  {'topic'") and len(out) <= 61
    (tmp_path / "evil.txt").write_text("clear \x1b[2J the screen\n")
    indexed("add", "@/index", "--texts", "@/evil.txt")
    assert "\x1b" not in indexed("search", "@/index", "clear", "--top-k", "9")[1]
    assert "recall: 1, the search is exact" in indexed("info", "@/index")[1]
    assert "whole: 5 texts" in indexed("verify", "@/index")[1]
    assert indexed("search", "@/index", "open the file", "--json")[1].startswith('{"id"')


def test_mistakes_end_with_2(indexed, capfd):
    folder = indexed.folder
    for arguments, message in (
        (["search", "@/index", "?!", "--mode", "words"], "no word in it"),
        # Told before a model is looked for.
        ("search @/index a --model @/absent --mode letters".split(), "--mode is one of meaning, words, both"),
        ("search @/index a --model @/absent --mode both --fusion sum".split(), "--fusion is one of convex, rrf"),
        ("search @/index a --model @/absent --mode both --weight 2".split(), "--weight is the share"),
        ("search @/index a --model @/absent --weight 0.5".split(), "pass --mode both"),
        ("search @/index a --model @/absent --candidates 0".split(), "--candidates must be at least 1"),
        (["search", "@/index", "a", "--rerank", "@/none"], "second look"),
        (["search", "@/index", " "], "blank"),
        (["search", "@/index", "x", "--top-k", "0"], "at least 1"),
        (["search", "@/index", "x", "--threshold", "high"], "--threshold is a number"),
        (["search", "@/index", "x", "--threshold", "auto"], "A rate of 0.01 cannot be seen"),
        (["search", "@/index", "x", "--where", "topic"], "KEY=VALUE"),
        (["search", "@/index", "x", "--where", "tpic=files"], "the keys are: n, topic"),
        (["search", "@/index", "x", "--model", "@/absent"], "could not be loaded"),
        (["add", "@/index", "--texts", "@/absent.txt"], "There is no file"),
        (["add", "@/index", "--texts", "@/texts.csv", "--ids", "name"], "'t0' is in the index already"),
        (["add", "@/index", "--texts", "@/texts.csv", "--column", "body"], "no column 'body'; the columns are name,"),
        ("index --model @/model --texts @/texts.csv --output @/other --kind hnws".split(), "FAISS makes no 'hnws'"),
        ("index --model @/absent --texts @/texts.csv --output @/other".split(), "could not be loaded"),
        ("index --model @/model --texts @/texts.csv --output @/index".split(), "replace it with --force"),
        (
            "index --model @/model --texts @/texts.csv --output @/other --dimensions 0".split(),
            "error: --dimensions must be",
        ),
        (["search", "@/index", "x", "--threshold", "2"], "--threshold is a number"),
        ("index --model @/model --texts @/texts.csv --output @/texts.csv".split(), "could not be saved"),
    ):
        assert message in failure(capfd, [argument.replace("@", str(folder)) for argument in arguments])
    shutil.move(folder / "model", folder / "moved")
    line = failure(capfd, ["search", str(folder / "index"), "x"])
    assert "The model" in line and "could not be loaded" in line
    assert indexed("search", "@/index", "x", "--model", "@/moved")[0] == 0


def test_a_broken_index_ends_with_3(indexed, capfd):
    (file,) = (indexed.folder / "index").glob("vectors-*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for verb in (["search", "@/index", "x"], ["verify", "@/index"], ["add", "@/index", "--texts", "@/texts.csv"]):
        capfd.readouterr()
        assert indexed(*verb) == (3, "")
    assert main(["info", str(indexed.folder / "absent")]) == 3
    assert "holds no index" in capfd.readouterr().err


def test_info_and_verify_load_no_model_and_search_loads_no_training(indexed):
    script = (
        "import sys\nfrom sentence_transformers_mirror.cli import main\ncode = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'gradio'} & set(sys.modules)),\n"
        "      sorted(name for name in sys.modules if name.startswith('sentence_transformers_mirror.')), code)"
    )
    index = str(indexed.folder / "index")
    for arguments in (["info", index], ["verify", index], ["info", index + "x"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1].startswith("[] ["), done.stderr
    done = subprocess.run([sys.executable, "-c", script, "search", index, "x"], capture_output=True, text=True)
    loaded = done.stdout.splitlines()[-1]
    assert loaded.endswith(" 0") and "search.index" in loaded
    assert not any(name in loaded for name in ("tuning", "loss", "corpus", "evidence", "gradio", "matplotlib"))
