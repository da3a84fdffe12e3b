"""What all verbs share: standard input and output, the device, how much is said, and completion."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_cli import failure, quiet_as_before  # noqa: F401
from test_cli_search import TEXTS, hits, indexed, shell  # noqa: F401
from transformers import BertConfig, BertForSequenceClassification

from sentence_transformers_mirror import models
from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.cli.arguments import DEVICES
from sentence_transformers_mirror.terminal import bar, volume


@pytest.fixture
def typed(monkeypatch):
    """Puts a text into standard input; as a terminal if it is to be typed."""

    def put(text, terminal=False):
        stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stdin", stream)

    return put


@pytest.fixture
def documents(shell):  # noqa: F811
    """Sixty documents of two sentences, and pairs with labels, beside the model."""
    lines = [f"{text.capitalize()} number {n}. It has {n} doors." for n in range(15) for text in TEXTS]
    (shell.folder / "documents.txt").write_text("\n".join(lines), encoding="utf-8")
    (shell.folder / "labelled").mkdir()
    pairs = [f"{n}\t{TEXTS[n % 4]}\t{lines[n]}" for n in range(6)]
    table = "\n".join(["score\tsentence1\tsentence2", *pairs])
    (shell.folder / "labelled" / "STSB.test.tsv").write_text(table, encoding="utf-8")
    return lines


# ---------------------------------------------------------------------------- standard input and output


def test_texts_from_standard_input(shell, typed):  # noqa: F811
    typed("one text\n\nanother text\n")
    code, out = shell("index", "--model", "@/model", "--texts", "-", "--output", "@/index")
    assert code == 0 and json.loads(out)["texts"] == 2 and json.loads(out)["skipped"] == 1
    typed('{"name": "a", "text": "a third", "year": 7}\n{"name": "b", "text": "a fourth", "year": 8}\n')
    code, out = shell("add", "@/index", "--texts", "-", "--ids", "name", "--metadata", "year")
    assert code == 0 and json.loads(out) == {"added": 2, "texts": 4, "skipped": 0}
    (hit,) = hits(shell("search", "@/index", "a third", "--where", "year=7")[1])
    assert (hit["id"], hit["text"]) == ("a", "a third")
    typed("".join(f"{text}\n" for text in TEXTS * 2))
    code, out = shell(*"tune --model @/model --texts - --output @/tuned --set batch_size=4 --json".split())
    assert code == 0 and json.loads(out)["texts"] == len(TEXTS)


def test_what_is_wrong_with_standard_input_is_told(shell, typed, capfd):  # noqa: F811
    folder = str(shell.folder)
    index = ["index", "--model", f"{folder}/model", "--texts", "-", "--output", f"{folder}/index"]
    for text, flags, message in (
        ("", [], "nothing to index"),
        ("a text\n", ["--ids", "name"], "of standard input"),
        ('{"text": "a"}\n', ["--ids", "name"], "standard input has no column 'name'"),
        (
            '{"text": "a", "name": 1.5}\n',
            ["--ids", "name"],
            "Line 1 of standard input: The id 1.5 is neither int nor str",
        ),
        ('{"text": 5, "name": 1}\n', ["--ids", "name"], "Line 1 of standard input"),
    ):
        typed(text)
        line = failure(capfd, [*index, *flags])
        assert message in line and "tmp" not in line.replace(folder, "")
    typed(" \n")
    tune = ["tune", "--model", f"{folder}/model", "--texts", "-", "--output", f"{folder}/tuned"]
    assert "no text" in failure(capfd, tune)


def test_queries_from_standard_input(indexed, typed, capfd):  # noqa: F811
    typed("open the file\n\nthe cat sat\n")
    code, out = indexed("search", "@/index", "-", "--top-k", "2")
    assert code == 0
    found = [(hit["query"], hit["id"]) for hit in hits(out)]
    assert len(found) == 4 and found[0] == ("open the file", "t0") and found[2] == ("the cat sat", "t2")
    typed("absent\nzebra\n")
    assert indexed("search", "@/index", "-", "--mode", "words") == (1, "")
    typed("absent\ncat\n")
    assert indexed("search", "@/index", "-", "--mode", "words")[0] == 0
    typed("\n")
    assert "write one a line" in failure(capfd, ["search", str(indexed.folder / "index"), "-"])
    assert "There is no query: pass one, or -" in failure(capfd, ["search", str(indexed.folder / "index")])


def test_at_a_terminal_one_asks_one_query_after_the_other(indexed, typed, capfd):  # noqa: F811
    loaded = []
    load, models.load_model = models.load_model, lambda *a, **k: loaded.append(a) or load(*a, **k)
    try:
        typed("cat\n\n  \n!!!\nopen\n", terminal=True)
        capfd.readouterr()
        assert main(["search", str(indexed.folder / "index"), "--mode", "words", "--top-k", "1"]) == 0
        out, err = capfd.readouterr()
        assert [(hit["query"], hit["id"]) for hit in hits(out)] == [("cat", "t2"), ("open", "t0")]
        assert err.count("st-mirror: error: ") == 1 and "has no word" in err
        typed("cat\nopen\nclose\n", terminal=True)
        assert main(["search", str(indexed.folder / "index"), "--top-k", "1"]) == 0
        assert len(hits(capfd.readouterr().out)) == 3 and len(loaded) == 1
    finally:
        models.load_model = load


def test_reports_and_scores_go_to_standard_output(shell, documents, typed, capfd):  # noqa: F811
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    code, out = shell("evaluate", "@/model", "--data", "@/labelled", "--suite", "sts", "--output", "-")
    assert code == 0 and "STS-B" in [one["name"] for one in json.loads(out)["scores"]]
    typed("\n".join(documents))
    code, out = shell("compare", "@/model", "@/model", "--texts", "-", "--output", "-")
    assert code == 0 and out.lstrip().lower().startswith("<!doctype html>") and out.rstrip().endswith("</html>")
    folder = str(shell.folder)
    for verb in (["evaluate", "m", "--data", folder], ["compare", "a", "b", "--texts", "t"]):
        assert "both write to standard output" in failure(capfd, [*verb, "--json", "--output", "-"])
    assert not os.path.exists("-")


def test_add_replaces_with_force(indexed, capfd):  # noqa: F811
    table = indexed.folder / "changed.csv"
    table.write_text("name,text\nt0,shut the door\nt9,a new text\n")
    add = ["add", str(indexed.folder / "index"), "--texts", str(table)]
    assert "and --force replaces it: make the ids different" in failure(capfd, [*add, "--ids", "name"])
    assert "name the column of ids with --ids" in failure(capfd, [*add, "--force"])
    code, out = indexed(*add, "--ids", "name", "--force")
    assert code == 0 and json.loads(out) == {"added": 2, "texts": 5, "skipped": 0}
    (hit,) = hits(indexed("search", "@/index", "shut the door", "--top-k", "1")[1])
    assert (hit["id"], hit["text"], hit["metadata"]) == ("t0", "shut the door", {})


# ---------------------------------------------------------------------------- device and volume


def test_every_model_that_a_verb_loads_goes_to_the_device(indexed, documents, monkeypatch):  # noqa: F811
    from sentence_transformers import CrossEncoder

    judge = BertForSequenceClassification(
        BertConfig(vocab_size=600, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=1)
    )
    judge.save_pretrained(indexed.folder / "judge")
    SentenceTransformer(str(indexed.folder / "model")).tokenizer.save_pretrained(indexed.folder / "judge")
    asked = []
    for kind in (SentenceTransformer, CrossEncoder):

        def made(self, *args, _make=kind.__init__, **options):
            asked.append(options.get("device"))
            _make(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", made)
    for verb in (
        "tune --model @/model --texts @/documents.txt --output @/tuned --set batch_size=8",
        "evaluate @/model --data @/labelled",
        "compare @/model @/tuned --texts @/documents.txt",
        "index --model @/model --texts @/texts.csv --output @/other",
        "add @/other --texts @/documents.txt",
        "search @/other cat --rerank @/judge",
    ):
        asked.clear()
        assert indexed(*verb.split(), "--device", "cpu")[0] == 0
        assert asked and set(asked) == {"cpu"}, verb
        asked.clear()
    indexed("search", "@/other", "cat")
    assert asked == [None]  # nothing of it is left


def test_devices_that_are_not_there(shell, capfd):  # noqa: F811
    index = ["index", "--model", f"{shell.folder}/model", "--texts", f"{shell.folder}/texts.csv", "--output", "x"]
    assert "--device is one of cpu, cuda, mps" in failure(capfd, [*index, "--device", "gpu"])
    assert "CUDA_VISIBLE_DEVICES picks one" in failure(capfd, [*index, "--device", "cuda:1"])
    absent = next(name for name in DEVICES[1:] if not getattr(torch, name, torch.cpu).is_available())
    assert f"PyTorch has no device '{absent}' on this machine" in failure(capfd, [*index, "--device", absent])


def test_quiet_and_verbose(indexed):  # noqa: F811
    """In processes of their own, as a user starts them."""
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}

    def said(*arguments):
        command = [sys.executable, "-m", "sentence_transformers_mirror", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done

    search = ["search", str(indexed.folder / "index"), "the cat"]
    plain, quiet, verbose = said(*search), said(*search, "--quiet"), said(*search, "--verbose")
    assert plain.stdout == quiet.stdout == verbose.stdout != ""
    assert plain.stderr.count("\n") == 1 and "the index was built by the model" in plain.stderr
    assert quiet.stderr == ""
    assert "Loading weights" in verbose.stderr and "the index was built by the model" in verbose.stderr


def test_quiet_hides_notes_and_bars_and_no_errors(shell, capfd):  # noqa: F811
    (shell.folder / "gaps.csv").write_text("text,n\na text,1\n,2\n")
    index = "index --model @/model --texts @/gaps.csv --output @/index --force".split()
    for flags, notes in ((["--quiet"], 0), ([], 1)):
        capfd.readouterr()
        assert main([one.replace("@", str(shell.folder)) for one in [*index, *flags]]) == 0
        assert capfd.readouterr().err.count("rows have no text") == notes
    absent = ["index", "--model", "no-model", "--texts", str(shell.folder / "gaps.csv"), "--output", "x", "--quiet"]
    assert "could not be loaded" in failure(capfd, absent)
    with volume(quiet=True, verbose=False):
        assert bar(total=3, show=True).disable
    assert not bar(total=3, show=True).disable or "TQDM_DISABLE" in os.environ
    with pytest.raises(SystemExit):
        main(["info", "x", "--quiet", "--verbose"])


# ---------------------------------------------------------------------------- completion


@pytest.mark.parametrize("name", ["bash", "zsh", "fish", "tcsh"])
def test_completion(name):
    pytest.importorskip("shtab", reason="needs the extra completion")
    command = [sys.executable, "-m", "sentence_transformers_mirror", "--completion", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("quickstart", "verify", "top-k", "st-mirror"))
    if program := shutil.which(name) if name != "tcsh" else None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_flag():
    pytest.importorskip("shtab", reason="needs the extra completion")
    command = [sys.executable, "-m", "sentence_transformers_mirror", "--completion", "bash"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    asked = (
        "\nCOMP_WORDS=(st-mirror search --rer)\nCOMP_CWORD=2\nCOMP_LINE='st-mirror search --rer'\n"
        '$(complete -p st-mirror | sed "s/.*-F \\([^ ]*\\) .*/\\1/") st-mirror --rer search\necho "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash"], input=script + asked, capture_output=True, text=True)
    assert done.stdout.strip() == "--rerank", done.stderr


def test_completion_without_shtab(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--completion", "bash"])
    assert stop.value.code == 2 and "sentence-transformers-mirror[completion]" in capfd.readouterr().err
