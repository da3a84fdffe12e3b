from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import __version__, quickstart
from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.texts import corpus
from sentence_transformers_mirror.training import tuning
from sentence_transformers_mirror.training.recipes import RECIPES


@pytest.fixture(autouse=True)
def quiet_as_before():
    """The command line quiets other libraries for good; a test must not do that to the next one."""
    import datasets
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "sentence_transformers_mirror")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def files(tiny_model, texts, tmp_path):
    """Arguments for a run of `tune` that succeeds, and their folder."""
    tiny_model.save_pretrained(str(tmp_path / "model"))
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*texts, "", texts[0]]) + "\n", encoding="utf-8")
    arguments = ["--model", str(tmp_path / "model"), "--texts", str(path), "--output", str(tmp_path / "tuned")]
    return ["tune", *arguments, "--set", "batch_size=8"], tmp_path


def failure(capfd, argv: list[str]) -> str:
    """The one line on stderr of a command that ends with code 2 and says nothing else."""
    capfd.readouterr()
    assert main(argv) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("st-mirror: error: ")]
    assert len(lines) == 1 and err.endswith(lines[0] + "\n") and "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["tune", "--help"], 0),
        ([], 2),
        (["tone"], 2),
        (["tune", "--model", "m"], 2),
        (["quickstart", "--sed", "3"], 2),
        (["quickstart", "--seed", "three"], 2),
        (["tune", "--model", "m", "--texts", "t", "--output", "o", "--recipe", "sentense"], 2),
        (["tune", "--model", "m", "--texts", "t", "--output", "o", "--set", "temperature=0"], 2),
    ],
)
def test_arguments_are_parsed_before_anything_heavy_is_imported(argv, code):
    script = (
        "import sys\nfrom sentence_transformers_mirror.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'datasets', 'sklearn', 'faiss', 'numpy', 'tqdm'}\n"
        "heavy.add('shtab')\n"
        "print('heavy', sorted(heavy.intersection(sys.modules)))\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "heavy []"
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == (code == 2)


def test_as_a_module():
    command = [sys.executable, "-m", "sentence_transformers_mirror", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"st-mirror {__version__}\n"


def test_tune_for_machines(files, capfd):
    argv, folder = files
    assert main([*argv, "--json", "--seed", "7", "--set", "learning_rate=1e-3", "--max-texts", "14"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result["steps"] == 1 and len(result["losses"]) == 1 and result["texts"] == 14
    assert result["read"] == 18
    assert result["dropped"] == {"empty": 1, "duplicate": 1, "sampled out": 2}
    assert result["recipe"]["learning_rate"] == 1e-3 and result["recipe"]["batch_size"] == 8
    assert not result["interrupted"]
    assert "LOAD REPORT" not in err and "Loading weights" not in err
    assert result["model"] == str(folder / "tuned")
    before, after = (
        SentenceTransformer(str(folder / name), device="cpu").encode("A cat.") for name in ("model", "tuned")
    )
    assert abs(before - after).max() > 1e-4


def test_tune_for_people(files, capfd):
    argv, folder = files
    assert main([*argv, "--set", "epochs=2"]) == 0
    out, _ = capfd.readouterr()
    assert "Tuned 4 steps" in out
    assert "16 (left out: 1 empty, 1 duplicate)" in out and "16 of 18 rows" in out
    assert str(folder / "tuned") in out
    # The next line to paste does what it says.
    code = out.split("Use it:\n")[1].replace("  ", "")
    scope: dict = {}
    exec(code, scope)
    assert scope["model"].encode("A cat.").shape == (32,)


def test_the_seed_decides(files, capfd):
    argv, _ = files
    losses = []
    for seed in ("1", "1", "2"):
        assert main([*argv, "--json", "--seed", seed, "--force"]) == 0
        losses.append(json.loads(capfd.readouterr().out)["losses"])
    assert losses[0] == losses[1] != losses[2]


def test_column_sentences_and_prompt(files, capfd, monkeypatch):
    argv, folder = files
    table = folder / "table.csv"
    table.write_text("id,body,name\n1,One cat sat. Two dogs ran.,x\n2,Three birds flew away. Four fish swam.,y\n")
    argv = [*argv, "--texts", str(table), "--json"]
    assert "Name it with" in failure(capfd, argv)
    assert "the columns are id, body, name" in failure(capfd, [*argv, "--column", "text"])
    seen = {}
    tune = tuning.mirror_tune
    monkeypatch.setattr(tuning, "mirror_tune", lambda *a, **k: seen.update(k, texts=a[1]["text"]) or tune(*a, **k))
    assert main([*argv, "--column", "body", "--split-sentences", "--prompt", "the "]) == 0
    assert list(seen["texts"]) == ["One cat sat. Two dogs ran.", "Three birds flew away. Four fish swam."]
    assert seen["prompt"] == "the " and seen["split_sentences"]
    monkeypatch.setattr(tuning, "mirror_tune", lambda *a, **k: seen.update(rows=list(a[1])) or tune(*a, **k))
    again = [*argv, "--column", "body", "--title", "name", "--recipe", "search", "--set", "batch_size=2"]
    assert "There is a model" in (message := failure(capfd, again)) and "--force" in message
    assert main([*again, "--force"]) == 0
    assert seen["rows"][1] == {"title": "y", "text": "Three birds flew away. Four fish swam."}


def test_recipes_and_overrides_that_do_not_exist_are_answered_with_those_that_do(files, capfd):
    argv, _ = files
    message = failure(capfd, [*argv, "--recipe", "sentense"])
    assert "did you mean 'sentence'" in message and all(name in message for name in RECIPES)
    assert "did you mean 'temperature'" in failure(capfd, [*argv, "--set", "temprature=0.1"])
    assert "temperature must be above 0" in failure(capfd, [*argv, "--set", "temperature=0"])
    for wrong in ("epochs", "epochs=", "epochs=many"):
        assert "NAME=VALUE" in failure(capfd, [*argv, "--set", wrong])
    assert "--max-texts must be at least 2" in failure(capfd, [*argv, "--max-texts", "1"])


def test_texts_that_cannot_be_read(files, capfd):
    argv, folder = files
    assert "There is no file" in failure(capfd, [*argv, "--texts", str(folder / "absent.txt")])
    path = folder / "bad.txt"
    for content, complaint in (
        ("Übergröße\n".encode("latin-1"), "not UTF-8"),
        (b"PK\0\1\2", "no text file"),
        (b"\n \n", "no text"),
        (b"only one\n", "Only one distinct text"),
    ):
        path.write_bytes(content)
        assert complaint in failure(capfd, [*argv, "--texts", str(path)])
    assert not (folder / "tuned").exists()


def test_models_and_folders_that_cannot_be_used(files, capfd):
    argv, folder = files
    assert "could not be loaded" in failure(capfd, [*argv, "--model", str(folder / "absent")])
    occupied = folder / "texts.txt"
    assert str(occupied) in failure(capfd, [*argv, "--output", str(occupied)])
    assert str(occupied) in failure(capfd, ["quickstart", "--output", str(occupied)])


def test_ctrl_c_while_tuning_keeps_the_model(files, capfd, monkeypatch):
    argv, folder = files
    forward = tuning.MirrorLoss.forward
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(tuning.MirrorLoss, "forward", interrupted)
    assert main([*argv, "--set", "epochs=5"]) == 130
    out, _ = capfd.readouterr()
    assert "Stopped by Ctrl-C after 2 steps" in out
    assert SentenceTransformer(str(folder / "tuned"), device="cpu").encode("A cat.").shape == (32,)


def test_ctrl_c_at_another_time(files, capfd, monkeypatch):
    argv, _ = files

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus, "load_corpus", interrupted)
    assert main(argv) == 130
    out, err = capfd.readouterr()
    assert out == "" and err == "st-mirror: interrupted\n"


def test_a_bug_is_called_a_bug(files, capfd, monkeypatch):
    argv, _ = files

    def broken(*args, **kwargs):
        raise KeyError("lost")

    monkeypatch.setattr(corpus, "load_corpus", broken)
    assert main(argv) == 70
    out, err = capfd.readouterr()
    assert out == "" and "a bug" in err and "Traceback" not in err
    with pytest.raises(KeyError, match="lost"):
        main([*argv, "--debug"])


RESULT = {
    "before": {"mrr": 0.11, "mrr_look_alikes": 0.22},
    "after": {"mrr": 0.33, "mrr_look_alikes": 0.44},
    "tfidf": {"mrr": 0.55, "mrr_look_alikes": 0.66},
    "evidence": {"verdict": "better", "difference": 0.22, "low": 0.1, "high": 0.3},
    "questions": [
        {
            "question": "Why?",
            "ranks": {"meaning": 1, "words": 4, "both": 2},
            "hits": [{"id": "re", "score": 0.5, "text": "re: Because."}],
        },
        {"question": "When?", "ranks": {"meaning": 5, "words": None, "both": 3}, "hits": []},
    ],
    "docstrings": 9000,
    "tuned_on": 6000,
    "pairs": 500,
    "steps": 30,
    "seconds": 99.5,
    "recipe": "search",
    "model": None,
}


def test_quickstart_is_told_to_people_and_to_machines(capfd, monkeypatch):
    # What it computes is tested where it is computed; here only how it is told.
    asked = []
    monkeypatch.setattr(quickstart, "run", lambda *args, **kwargs: asked.append((args, kwargs)) or RESULT)
    assert main(["quickstart", "--json", "--output", "here", "--seed", "3"]) == 0
    assert json.loads(capfd.readouterr().out) == RESULT
    assert asked == [(("here",), {"seed": 3, "overwrite": False})]
    assert main(["quickstart", "--output", "over there"]) == 0
    assert "st-mirror search 'over there/index' \"" in capfd.readouterr().out
    assert main(["quickstart"]) == 0
    out = capfd.readouterr().out
    for number in (
        "0.110",
        "0.220",
        "0.330",
        "0.440",
        "0.550",
        "0.660",
        "6,000",
        "9,000",
        "100 s",
        "Why?",
        "Because.",
        "Verdict: better (+0.220, 95% +0.100 to +0.300)",
        "Of 2 questions 1 find a right answer among the first three by meaning, 0 by words and 2 by both",
    ):
        assert number in out
