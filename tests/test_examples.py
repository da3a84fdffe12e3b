"""Every example runs as its own process, the way a reader would start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(tmp_path, texts, script, *arguments):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / script), str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "from_text_file.py",
        "own_trainer.py",
        "semantic_search.py",
    }


def test_from_text_file(tmp_path, texts):
    assert "1 steps in" in run(tmp_path, texts, "from_text_file.py", str(tmp_path / "out"))
    assert (tmp_path / "out" / "modules.json").exists()


@pytest.mark.parametrize("loop", ["trainer", "fit"])
def test_own_trainer(tmp_path, texts, loop):
    assert "tensor(" in run(tmp_path, texts, "own_trainer.py", "--loop", loop, "--batch-size", "8")


def test_semantic_search(tmp_path, texts):
    command = [sys.executable, str(EXAMPLES / "semantic_search.py"), "index", "--sentences", "400", "--queries", "50"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (line.split()[-2:] for line in done.stdout.splitlines() if line.startswith(("before", "after")))
    assert all(0 < float(number) <= 1 for number in (*before, *after))
    assert "[asyncio" not in done.stdout and "asyncio." in done.stdout and "threshold: " in done.stdout
    assert (tmp_path / "index" / "manifest.json").exists()
