"""What a user's terminal shows: our own sentences, and nothing of the libraries below."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from sentence_transformers_mirror import SearchIndex, evaluate
from sentence_transformers_mirror.cli import USAGE
from sentence_transformers_mirror.evidence.parts import Parts
from sentence_transformers_mirror.evidence.report import _cosines
from sentence_transformers_mirror.evidence.verdict import called, measure
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.hits import judge
from sentence_transformers_mirror.terminal import quiet


@pytest.fixture
def masked_model(tiny_model, tmp_path):
    """The folder of a masked language model as the hub has them: with a head, and without a pooler."""
    folder = tmp_path / "masked"
    config = BertConfig(
        vocab_size=len(tiny_model.tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return folder


def test_a_model_is_loaded_without_tables_and_bars(masked_model):
    """In a process of its own, as the libraries say it there: the host alone shows that there is something to hide."""
    told = {}
    for home, loads in (("sentence_transformers", "SentenceTransformer"), (load_model.__module__, "load_model")):
        program = f"from {home} import {loads}; {loads}({str(masked_model)!r})"
        environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and done.stdout == ""
        told[loads] = done.stderr
    assert "Loading weights" in told["SentenceTransformer"] and "MISSING" in told["SentenceTransformer"]
    assert told["load_model"] == ""


def test_quiet_inside_quiet_turns_the_switches_back_once():
    before = logging.getLogger("sentence_transformers").level, transformers_logging.get_verbosity()
    with quiet():
        with quiet():
            pass
        assert transformers_logging.get_verbosity() >= logging.ERROR
        assert logging.getLogger("sentence_transformers").level >= logging.ERROR
    assert (logging.getLogger("sentence_transformers").level, transformers_logging.get_verbosity()) == before


def test_a_reranker_without_a_trained_head_is_refused(masked_model):
    with pytest.raises(OSError, match="not trained to judge pairs"):
        judge(masked_model)


@pytest.mark.parametrize("kind", ["ivf-pq", "PQ8", "HNSW8,PQ8", "OPQ8,IVF8,PQ8", "IVF10,PQ8,RFlat", "PRQ2x2x8"])
def test_faiss_does_not_warn_of_few_rows(kind, capfd):
    vectors = np.random.default_rng(0).normal(size=(2_500, 32)).astype(np.float32)
    index = SearchIndex.from_vectors(vectors, map(str, range(len(vectors))), kind=kind)
    assert index.search(vectors[7])[0].id == 7
    assert "WARNING" not in "".join(capfd.readouterr())


def test_a_kind_that_faiss_builds_and_cannot_search_is_no_bug():
    vectors = np.random.default_rng(0).normal(size=(2_500, 32)).astype(np.float32)
    with pytest.raises(ValueError, match=r"FAISS cannot search 'HNSW8_2\+PQ8'; choose another kind"):
        SearchIndex.from_vectors(vectors, map(str, range(len(vectors))), kind="HNSW8_2+PQ8")


class Constant:
    prompts, default_prompt_name = {}, None


def test_cosines_that_are_all_equal_are_drawn(monkeypatch):
    ones = np.full((60, 4), 0.5, np.float32)
    parts = Parts([f"q {n}" for n in range(60)], [f"p {n}" for n in range(60)], np.arange(60), "made up")

    monkeypatch.setattr("sentence_transformers_mirror.evidence.verdict.embed", lambda *_, **__: np.tile(ones, (2, 1)))
    measured = measure(Constant(), parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        _cosines([measured, measured])


def test_a_model_of_vectors_that_are_no_numbers_is_named(monkeypatch):
    parts = Parts(["q"] * 60, ["p"] * 60, np.arange(60), "made up")
    nothing = np.full((120, 4), np.nan)
    monkeypatch.setattr("sentence_transformers_mirror.evidence.verdict.embed", lambda *_, **__: nothing)
    with pytest.raises(ValueError, match="The model 'this' makes vectors that are not numbers"):
        measure(Constant(), parts, called=called("this"))


def test_a_model_that_finds_all_texts_alike_is_told_in_one_sentence(tiny_model, tmp_path):
    lines = [f"a man {n} runs\ta woman {n * 7 % 5} walks\t{n % 5}" for n in range(20)]
    (tmp_path / "STSB.test.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines]), encoding="utf-8")
    last = tiny_model[0].model.encoder.layer[-1].output.LayerNorm
    last.weight.data.zero_()
    last.bias.data.fill_(1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy warns of a constant input
        with pytest.raises(ValueError, match="STS-B"):
            evaluate(tiny_model, tmp_path, "sts")


def test_a_cut_text_has_both_quotation_marks():
    assert quoted("a" * 100, 5) == "'aaaaa...'" and quoted("it's") == '"it\'s"' and quoted([1, 2]) == "[1, 2]"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("leads", "code", "told"), [(">&-", 0, ""), (">/dev/full", USAGE, "could not be written")])
def test_standard_output_that_is_closed_or_full_is_no_bug(leads, code, told, tmp_path):
    SearchIndex.from_vectors(np.eye(3, dtype=np.float32), ["a", "b", "c"]).save(tmp_path)
    command = f"'{sys.executable}' -m sentence_transformers_mirror info '{tmp_path}' {leads}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and told in done.stderr and "[Errno" not in done.stderr
    assert len(done.stderr.splitlines()) == bool(told)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_not_quiet_for_ever():
    inside, leave = threading.Event(), threading.Event()

    def elsewhere():
        with quiet():
            inside.set()
            leave.wait()

    before = transformers_logging.get_verbosity()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    inside.wait()
    if not (child := os.fork()):
        with quiet():
            pass
        os._exit(transformers_logging.get_verbosity() != before)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_weights_that_are_random_are_told(masked_model, caplog):
    """A pooler, which nothing reads, is none of them."""
    load_model(masked_model)
    assert not caplog.records
    file = masked_model / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layer.0.output.dense" not in name}
    save_file(kept, file, {"format": "pt"})
    load_model(masked_model)
    assert "lacks 2 weights (first: encoder.layer.0.output.dense" in caplog.text


def test_warnings_of_the_log_are_complaints_like_others(tiny_model, tmp_path):
    tiny_model.save_pretrained(str(tmp_path / "model"))
    (tmp_path / "texts.txt").write_text("word " * 400 + "\nanother text\n", encoding="utf-8")

    def told(*argv: object) -> list[str]:
        command = [sys.executable, "-m", "sentence_transformers_mirror", *map(str, argv)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line for line in done.stderr.splitlines() if "tokens" in line]

    texts = ["--model", tmp_path / "model", "--texts", tmp_path / "texts.txt"]
    (line,) = told("index", *texts, "--output", tmp_path / "index")
    assert line.startswith("st-mirror: Text 1, 'word word") and "build with --passages" in line
    (line,) = told("add", *texts, tmp_path / "index")
    assert "index again with --passages" in line
