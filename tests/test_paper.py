"""The scripts of the paper's tables: do they run, on a few rows of made-up sets, and do they print?"""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in ROOT.glob("benchmarks/paper/[tf]*.py"))
NOUNS = ["cat", "dog", "file", "list", "window", "knife", "road", "ship", "song", "tree"]


@pytest.fixture
def folder(tmp_path):
    """A few rows of every set that the scripts read."""
    data = tmp_path / "data"

    def write(name, header, rows):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["\t".join(header)] if header else []
        lines += ["\t".join(map(str, row)) for row in rows]
        content = "\n".join(lines) + "\n"
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(content.encode()))
        else:
            path.write_text(content, encoding="utf-8")

    sentences = [f"The {a} sat by the {b} for a long time." for a in NOUNS for b in NOUNS[:4]]
    pairs = [(n % 5, a, b) for n, (a, b) in enumerate(zip(sentences, sentences[1:], strict=False))]
    for year in range(12, 17):
        write(f"STS{year}.test.tsv", ["score", "sentence1", "sentence2"], pairs)
    write("STSB.test.tsv", ["score", "sentence1", "sentence2"], pairs)
    write(
        "multisimlex.ENG.tsv",
        ["score", "word1", "word2"],
        [(n % 3, a, b) for n, (a, b) in enumerate(zip(NOUNS, NOUNS[1:], strict=False))],
    )
    rows = [("entailment" if n % 2 else "not_entailment", a, b) for n, (_, a, b) in enumerate(pairs)]
    write("qnli.dev.tsv", ["label", "question", "sentence"], rows)
    write("ncbi_disease.dev.tsv", ["mention", "cui"], [(noun, n) for n, noun in enumerate(NOUNS)])
    write("dictionary_medic_2012.tsv", ["cui", "name"], [(n, f"{noun} {noun}") for n, noun in enumerate(NOUNS)])
    lexicon = [("en-fr", "test" if n > 5 else "train", noun, f"le {noun}") for n, noun in enumerate(NOUNS)]
    write("xling.en-fr.tsv", ["pair", "split", "source", "target"], lexicon)
    write(
        "corpus/mirror_corpus/stsbenchmark_train_10k_sents_random_sampled.txt.gz", [], [(text,) for text in sentences]
    )
    write("corpus/mirror_corpus/en_words_top_10k.txt.gz", [], [(noun,) for noun in NOUNS])
    return data


@pytest.fixture
def script(monkeypatch):
    """Imports a script as running it does: from the root of the repository."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.paper.{name}")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_prints_a_table(name, script, folder, tiny_model, tmp_path, monkeypatch, capsys):
    tiny_model.save_pretrained(str(tmp_path / "tiny"))
    output = tmp_path / "kept.json"
    arguments = ["--data", str(folder), "--model", str(tmp_path / "tiny"), "--seeds", "1", "--output", str(output)]
    if name == "figure05_texts":
        arguments += ["--max-texts", "500"]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module = script(name)
    if name == "table07_views":  # one batch of all texts is enough
        monkeypatch.setattr(module, "UNMASKED", module.replace(module.UNMASKED, batch_size=20))
    module.main()
    result = json.loads(output.read_text(encoding="utf-8"))["result"]
    page = capsys.readouterr().out
    assert all(f"\n| {one['what']} | " in page for one in result["lines"]) and len(result["lines"]) > 1
    assert all(f"\n| {one['change']} | " in page for one in result["effects"])
    assert bool(result["effects"]) == (name != "figure05_texts")  # of which the paper gives no numbers
    numbers = [number for line in result["lines"] for number in line["ours"]]
    assert len(numbers) >= 2 and np.isfinite(numbers).all()


def test_what_reproduces(script):
    shared = script("shared")
    lines = [
        shared.line("before", 20.0, 50.0),
        shared.line("after", 60.0, [59.0, 61.0]),
        shared.line("twice", 30.0, [69.0, 71.0]),
        shared.line("noise", 30.0, [49.0, 52.0]),
        shared.line("harm", 30.0, [44.0, 46.0]),
        shared.line("once", 30.0, 45.0),
        shared.line("unpublished", None, 45.0),
        shared.line("absent", 30.0, None),
    ]
    found = shared.effects(lines, {one["what"]: ("before", one["what"]) for one in lines[1:]})
    assert {one["change"]: one["reproduces"] for one in found} == {
        "after": "direction, not size",
        "twice": "direction and size",
        "noise": "no effect beyond the spread",
        "harm": "the opposite",
        "once": "one seed cannot tell",
    }
    assert (found[0]["paper"], found[0]["ours"], found[0]["spread"]) == (40, 10, 2)


def test_a_rotated_language_is_found(script):
    module = script("table05_06_cross_lingual")
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(60)]
    vectors = rng.normal(size=(60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    made = {f"source:{word}": vector for word, vector in zip(words, vectors, strict=True)}
    made |= {f"target:{word}": vector @ rotation for word, vector in zip(words, vectors, strict=True)}
    lexicon = [(word, word) for word in words]
    assert module.induction(made, lexicon[:40], lexicon[40:]) == 1
    assert (
        module.induction(
            made, [(a, b) for (a, _), (b, _) in zip(lexicon[:40], lexicon[1:41], strict=True)], lexicon[40:]
        )
        < 0.5
    )


def test_csls_is_a_plain_loop(script):
    module = script("table05_06_cross_lingual")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 3)), rng.normal(size=(15, 3))
    scores = a @ b.T
    for i in range(12):
        for j in range(15):
            expected = 2 * scores[i, j] - np.mean(sorted(scores[i])[-10:]) - np.mean(sorted(scores[:, j])[-10:])
            assert module.csls(a, b)[i, j] == pytest.approx(expected)
