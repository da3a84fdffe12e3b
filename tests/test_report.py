"""The page, its pictures, and the command that writes it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.training.result import HISTORY

pytest.importorskip("matplotlib", reason='needs pip install "sentence-transformers-mirror[plot]"')
from sentence_transformers_mirror.evidence.report import _sentence, write_report  # noqa: E402

HOSTILE = (
    "<script>document.title = 'owned'</script> & \"quoted\" is the first. "
    "<img src=x onerror=\"document.title='owned'\">"
)
PLACES = [("door", "file"), ("list", "tree"), ("road", "ship"), ("window", "king"), ("ball", "snow")]
TEXTS = [f"The cat {n} sat by the {a}. Then {n} left for the {b}." for n in range(12) for a, b in PLACES]


@pytest.fixture
def page(tiny_model, make_model, tmp_path):
    other = make_model("roberta")
    paths = tmp_path / "report.html", tmp_path / "plots"
    found = write_report(tiny_model, other, [HOSTILE, *TEXTS], paths[0], losses=[3.0, 2.0, 1.5], plots=paths[1])
    return tmp_path / "report.html", found


def test_the_page_says_what_was_found_and_escapes_what_texts_say(page, tmp_path):
    path, found = page
    content = path.read_text(encoding="utf-8")
    assert f"{found.difference:+.3f}" in content and f"{found.pairs} pairs" in content
    assert "<script" not in content and "<img src=x" not in content and "http://" not in content
    assert content.count("src='data:image/png;base64,") == 4 == len(list((tmp_path / "plots").glob("*.png")))
    assert content.count("<tr><td>") == 20 + 6  # texts with neighbours, and numbers of geometry
    assert "torch " in content.split("Made by")[1] and "faiss-cpu" in content.split("Made by")[1]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "plots").iterdir())


def test_a_small_fall_is_not_passed_over(page):
    small = replace(page[1], verdict="no evidence", low=-0.03, high=-0.01)
    assert "lower, but by too little" in _sentence(small)
    assert "no evidence" in _sentence(replace(small, high=0.01))


def test_all_texts_are_escaped(tiny_model, tmp_path):
    texts = [HOSTILE.replace("first", f"first {n}").replace("x on", f"x{n} on") for n in range(60)]
    write_report(tiny_model, tiny_model, texts, tmp_path / "report.html")
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;" in content and "<script" not in content and "<img src=x" not in content
    assert "no evidence" in content and "The loss while tuning" not in content


def test_in_a_browser(page, browser):
    view = browser.new_page()
    told, asked = [], []
    view.on("console", lambda message: told.append(message.text))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page[0].as_uri())
    assert view.title() == "Did tuning help?" and not told
    assert [url for url in asked if not url.startswith("data:")] == [page[0].as_uri()]
    assert view.eval_on_selector_all("img", "all => all.every(one => one.naturalWidth > 100)")


@pytest.fixture
def folders(tiny_model, tmp_path):
    for name in ("before", "after"):
        tiny_model.save_pretrained(str(tmp_path / name))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return [str(tmp_path / "before"), str(tmp_path / "after"), "--texts", str(tmp_path / "texts.txt")]


def test_command_line(folders, tmp_path, capsys):
    assert main(["compare", *folders]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no evidence: mean reciprocal rank +0.000") and "words (TF-IDF)" in printed
    (tmp_path / "after" / HISTORY).write_text('{"losses": [2.0, 1.0]}')
    rows = "".join(f"1\t{text}\t{text[:20]}\n" for text in TEXTS[:3]) + "2\ta b\tc d\n"
    (tmp_path / "STSB.test.tsv").write_text("score\tsentence1\tsentence2\n" + rows)
    output = ["--output", str(tmp_path / "r.html"), "--plots", str(tmp_path / "p"), "--labels", str(tmp_path)]
    assert main(["compare", *folders, *output, "--json", "--structure", "first"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "no evidence"
    content = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "The loss while tuning" in content and "Where there are labels" in content and "<td>STS-B<" in content
    assert "Absent: STS12, STS13" in content and "<td>STS12<" not in content
    assert (tmp_path / "p/loss.png").exists()


def test_titles(folders, tmp_path, capsys):
    rows = [json.dumps({"title": f"Title {n}", "body": text}) for n, text in enumerate(TEXTS)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    folders[-1] = str(tmp_path / "texts.jsonl")
    assert main(["compare", *folders, "--column", "body", "--title", "title", "--structure", "title"]) == 0
    assert "60 pairs of 60 texts: title and body" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--plots", "p"], "--labels and --plots are for the report: add --output"),
        (["--structure", "odd"], "no structure 'odd'"),
        (["--title", "name"], "no column"),
    ],
)
def test_bad_arguments(folders, extra, message, capsys):
    assert main(["compare", *folders, *extra]) == 2
    assert message in capsys.readouterr().err


def test_tuning_keeps_its_losses_beside_the_model(tiny_model, texts, tmp_path):
    from sentence_transformers_mirror import mirror_tune

    result = mirror_tune(tiny_model, texts, output_dir=tmp_path / "tuned", batch_size=8)
    kept = json.loads((tmp_path / "tuned" / HISTORY).read_text(encoding="utf-8"))
    assert kept["losses"] == result.losses and kept["recipe"]["batch_size"] == 8 and kept["seed"] == 42
    assert SentenceTransformer(str(tmp_path / "tuned")).encode("a text").shape == (32,)
