"""MTEB on tasks of local files, and that it gives the numbers that `st-mirror evaluate` gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mteb", reason="needs mteb, in an environment of its own: pip install -c constraints.txt . mteb")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the package

from benchmarks import mteb_tasks  # noqa: E402
from sentence_transformers_mirror import embedded_model_path  # noqa: E402
from sentence_transformers_mirror.cli import main  # noqa: E402


@pytest.fixture
def files(texts, tmp_path):
    """A folder of labelled sets and a table of queries with their passages."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    pairs = [(a, b) for a in texts for b in texts[:9] if a != b]
    lines = [f"{(7 * number) % 11}\t{a}\t{b}" for number, (a, b) in enumerate(pairs)]
    (folder / "STSB.test.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *lines]), encoding="utf-8")
    (folder / "biosses.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *lines[::3]]), encoding="utf-8")
    table = tmp_path / "pairs.tsv"
    rows = [f"{text[: len(text) // 2]}\t{text}" for text in texts]
    table.write_text("\n".join(["query\tpassage", *rows]), encoding="utf-8")
    return folder, table


def test_the_local_task_gives_the_number_of_evaluate(files, capfd):
    folder, _ = files
    assert main(["evaluate", embedded_model_path(), "--data", str(folder), "--suite", "sts", "--json"]) == 0
    scores = json.loads(capfd.readouterr().out)["scores"]
    ours = {f"local {one['name']}": one["value"] for one in scores if one["value"] is not None}
    tasks = mteb_tasks.local(folder, None, None)
    rows = mteb_tasks.measure("embedded", "embedded", set(), tasks)["rows"]
    theirs = {row["task"]: row["before"] for row in rows}
    assert len(ours) == 2 and set(ours) == set(theirs)
    for name, value in ours.items():
        assert value / 100 == pytest.approx(theirs[name] / 100, abs=1e-6) and 0.01 < abs(value) < 100


def test_both_models_in_one_table_with_what_they_were_trained_on(files, make_model, tmp_path):
    folder, table = files
    for name in ("bert", "roberta"):
        make_model(name).save_pretrained(str(tmp_path / name))
    output = tmp_path / "result.json"
    models = [str(tmp_path / "bert"), str(tmp_path / "roberta"), "--trained-on", "STSBenchmark"]
    given = ["--data", str(folder), "--sets", "STS-B", "--pairs", str(table), "--output", str(output)]
    command = [sys.executable, "-m", "benchmarks.mteb_tasks", *models, *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in output.read_text()
    result = json.loads(output.read_text())["result"]
    assert [(row["task"], row["metric"], row["trained on"]) for row in result["rows"]] == [
        ("local STS-B", "cosine_spearman", True),  # STSBenchmark, as MTEB calls it
        ("local pairs.tsv", "ndcg_at_10", False),
    ]
    assert all(row["before"] != row["after"] for row in result["rows"])
    assert result["models"]["before"] == {"name": "local/bert", "training_datasets": None, "adapted_from": None}
    assert result["models"]["after"] == {
        "name": "local/roberta",
        "training_datasets": ["STSBenchmark"],
        "adapted_from": "local/bert",
    }
    assert "| local pairs.tsv | ndcg_at_10 |" in done.stdout and "STSBenchmark" in done.stdout


def test_sets_that_are_not_there_are_told(files):
    with pytest.raises(FileNotFoundError, match="has no SICK-R, SimLex-999"):
        mteb_tasks.local(files[0], ["STS-B", "SICK-R", "SimLex-999"], None)


def test_a_query_finds_its_passages(texts):
    pairs = [(text[: len(text) // 2], text) for text in texts] + [(texts[0][: len(texts[0]) // 2], texts[1])]
    tasks = {"local": [mteb_tasks.retrieval_task("halves", pairs)]}
    (row,) = mteb_tasks.measure("embedded", "embedded", set(), tasks)["rows"]
    assert 60 < row["before"] <= 100  # the halves of different texts share hardly a word


def test_the_named_tasks_are_those_of_the_benchmarks():
    found = mteb_tasks.named(["nanobeir", "sts", "BIOSSES"])
    assert len(found["nanobeir"]) == 13 and all(one.metadata.name.startswith("Nano") for one in found["nanobeir"])
    assert {"STS12", "STSBenchmark", "SICK-R"} < {one.metadata.name for one in found["sts"]}
    assert [one.metadata.name for one in found["BIOSSES"]] == ["BIOSSES"]


def test_what_mteb_knows_of_a_model_is_declared():
    assert "MSMARCO" in mteb_tasks.known_corpora("sentence-transformers/all-MiniLM-L6-v2")
    assert mteb_tasks.known_corpora("nobody/knows") is None
    assert mteb_tasks.public_name("a/model") == "a/model" and mteb_tasks.public_name("/a/b/c") == "local/c"
