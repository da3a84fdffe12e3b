"""Every example runs as its own process, the way a reader would start it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
RUN = {
    "from_text_file.py",
    "domain_corpus.py",
    "own_trainer.py",
    "multi_gpu.py",
    "question_answer_pairs.py",
    "words_and_phrases.py",
    "search_and_sentences.py",
    "short_vectors.py",
    "onnx_export.py",
    "generated_queries.py",
    "langchain_store.py",
    "semantic_search.py",
    "mirror_tuning.ipynb",
}


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=folder, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def text_file(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tiny_model, tmp_path):
    tiny_model.save_pretrained(str(tmp_path / "tiny"))
    return ["--model", tmp_path / "tiny"]


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == RUN


def test_from_text_file(tmp_path, text_file):
    assert "1 steps in" in run(tmp_path, EXAMPLES / "from_text_file.py", text_file, "out")
    assert (tmp_path / "out" / "modules.json").exists()


@pytest.mark.parametrize("loop", ["trainer", "fit"])
def test_own_trainer(tmp_path, text_file, tiny, loop):
    script = EXAMPLES / "own_trainer.py"
    assert "tensor(" in run(tmp_path, script, text_file, "--loop", loop, "--batch-size", "8", *tiny)


def test_domain_corpus(tmp_path, texts, tiny):
    path = tmp_path / "documents.txt"
    documents = [f"In case {n}: {a} So it was {n}: {b}" for n, (a, b) in enumerate(product(texts, texts + texts))]
    path.write_text("\n".join(documents), encoding="utf-8")
    assert "held-out documents" in run(tmp_path, EXAMPLES / "domain_corpus.py", path, "out", *tiny)
    assert (tmp_path / "out" / "modules.json").exists()


def test_search_and_sentences(tmp_path, texts, tiny):
    pairs = [f"Case {n},In case {n}: {a} So it was {n}: {b}" for n, (a, b) in enumerate(product(texts, texts))]
    pairs = [pair.replace(",", ";").replace(";", ",", 1).replace('"', "") for pair in pairs] * 3
    (tmp_path / "documents.csv").write_text("\n".join(["title,text", *pairs[:150]]), encoding="utf-8")
    (tmp_path / "sentences.txt").write_text("\n".join(f"This is sentence {n}." for n in range(450)))
    script = EXAMPLES / "search_and_sentences.py"
    told = run(tmp_path, script, tmp_path / "documents.csv", tmp_path / "sentences.txt", "out", *tiny)
    assert told == "7 steps of `search` and 2 of `sentence`, in turn\n"
    assert (tmp_path / "out" / "modules.json").exists()
    few = [sys.executable, script, tmp_path / "documents.csv", tmp_path / "documents.csv", "few", *tiny]
    refused = subprocess.run(few, capture_output=True, text=True, cwd=tmp_path)
    assert "Steps need 64 documents and 200 sentences, and there are 150 and 150: give more." in refused.stderr
    assert refused.returncode and not (tmp_path / "few").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's rendezvous needs libuv, which wheels for Windows lack")
def test_multi_gpu(tmp_path, text_file, tiny):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    printed = run(tmp_path, *torchrun, EXAMPLES / "multi_gpu.py", text_file, "out", "--batch-size", "4", *tiny)
    assert "2 steps of 2 x 4 texts" in printed
    assert (tmp_path / "out" / "modules.json").exists()


def test_question_answer_pairs(tmp_path, texts, tiny):
    path = tmp_path / "pairs.tsv"
    rows = [f"{question}\t{answer}" for question, answer in zip(texts[:8], texts[8:], strict=True)]
    path.write_text("\n".join(["question\tanswer", *rows]), encoding="utf-8")
    assert "of 8 questions" in run(tmp_path, EXAMPLES / "question_answer_pairs.py", path, "out", *tiny)
    assert (tmp_path / "out" / "modules.json").exists()


def test_words_and_phrases(tmp_path, tiny):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(["cat", "dog", "open file", "window", "ball", "knife"]), encoding="utf-8")
    printed = run(tmp_path, EXAMPLES / "words_and_phrases.py", path, "out", "--recipe", "phrase", *tiny)
    assert printed.startswith("cat: ")


def test_short_vectors(tmp_path, text_file, tiny):
    printed = run(tmp_path, EXAMPLES / "short_vectors.py", text_file, "out", *tiny)
    assert printed.splitlines()[-3:] == [f"{size} dimensions: (1, {size})" for size in (32, 16, 8)]


def test_onnx_export(tmp_path, make_model):
    pytest.importorskip("onnxscript", reason='needs pip install "sentence-transformers-mirror[onnx]"')
    make_model("modernbert").save_pretrained(str(tmp_path / "model"))
    printed = run(tmp_path, EXAMPLES / "onnx_export.py", "model", "model.onnx")
    assert float(printed.split("largest difference to PyTorch ")[1]) < 1e-4


def test_generated_queries(tmp_path, texts, tiny):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"Document-number-{n:04}: {texts[n % 3]}" for n in range(256)), encoding="utf-8")
    program = "import sys; print(sys.stdin.read().split()[-4:][0], 'of what?')"
    script = EXAMPLES / "generated_queries.py"
    printed = run(tmp_path, script, path, "out", "-k", "256", *tiny)
    assert printed.startswith("205 of 205 questions are kept") and "51 questions about 51 other texts" in printed
    assert "words (TF-IDF)" in printed
    assert (tmp_path / "out" / "modules.json").exists()
    # A program starts for each text: few of them.
    path.write_text("\n".join(f"{text} ({n})" for n, text in enumerate(texts)), encoding="utf-8")
    printed = run(tmp_path, script, path, "out2", "-k", "256", "--generate", f'{sys.executable} -c "{program}"', *tiny)
    assert "duplicate" in printed


def test_langchain_store(tmp_path, text_file, tiny):
    pytest.importorskip("langchain_core", reason='needs pip install "sentence-transformers-mirror[langchain]"')
    printed = run(tmp_path, EXAMPLES / "langchain_store.py", text_file, "store", "Who opens a window?", *tiny)
    assert printed.startswith("16 texts in store\n") and len(printed.splitlines()) == 1 + 3 + 1 + 3
    assert (tmp_path / "store" / "manifest.json").exists()


def test_semantic_search(tmp_path, tiny):
    sizes = ["--documents", "400", "--queries", "50", "--docstrings", "600"]
    printed = run(tmp_path, EXAMPLES / "semantic_search.py", "index", *sizes, *tiny)
    before, after = (line.split()[-2:] for line in printed.splitlines() if line.startswith(("before", "after")))
    assert all(0 <= float(number) <= 1 for number in (*before, *after))
    assert "threshold: " in printed and "600 texts in index" in printed
    assert (tmp_path / "index" / "manifest.json").exists()


@pytest.mark.quality
def test_notebook(tmp_path):
    cells = json.loads((EXAMPLES / "mirror_tuning.ipynb").read_text(encoding="utf-8"))["cells"]
    assert len(cells) <= 15
    assert not any(cell.get("outputs") for cell in cells), "clear the outputs before committing"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # The installation is the one cell that is not Python.
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(cell for cell in code if not cell.startswith("!pip")), encoding="utf-8")
    printed = run(tmp_path, script)
    before, after = printed.split("before ")[1].splitlines()[0].split(", after ")
    assert float(after) > float(before)
    assert (tmp_path / "tuned" / "modules.json").exists()
