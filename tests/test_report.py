"""The page, its pictures, and the command that writes it."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.training.saving import HISTORY

pytest.importorskip("matplotlib", reason='needs pip install "sentence-transformers-mirror[plot]"')
from sentence_transformers_mirror.evidence.parts import SINGLE, Parts  # noqa: E402
from sentence_transformers_mirror.evidence.report import (  # noqa: E402
    AFTER,
    BEFORE,
    INK,
    WORDS,
    _sentence,
    against,
    changed,
    strip,
    write_report,
)
from sentence_transformers_mirror.evidence.verdict import Measurement  # noqa: E402

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
    pictures = re.findall(r"(srcset|src)='data:image/svg\+xml;base64,([^']+)'", content)
    assert [name for name, _ in pictures] == ["srcset", "src"] * 3  # each for dark pages and for light ones
    for (_, dark), (_, light) in zip(pictures[::2], pictures[1::2], strict=True):
        dark, light = (base64.b64decode(one).decode() for one in (dark, light))
        assert dark != light and "#000000" not in dark + light and "Date" not in light
        assert not set(re.findall("#[0-9a-f]{6}", dark)) & {INK, BEFORE, AFTER, WORDS}
    assert len(list((tmp_path / "plots").glob("*.png"))) == 4  # of which the page draws the ranks itself
    assert content.count("class='st-card near'") == 20 and content.count("<tr><td>") == 6  # geometry
    assert content.count("class='row ") == 6 and content.count("class=strip") == 2
    assert "torch " in content.split("Made by")[1] and "faiss-cpu" in content.split("Made by")[1]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "plots").iterdir())


def ranked(ranks):
    """A measurement with the same rank of all texts."""
    return Measurement(None, None, ranks, ranks, {}, ranks)


@pytest.mark.parametrize(
    "model, structure, said, tone",
    [
        (0.2, "halves", "Words alone (TF-IDF) are better: the model after tuning is behind them by 0.300", "worse"),
        (0.9, "halves", "The model after tuning is ahead of words alone (TF-IDF) by 0.400", "better"),
        (0.5, "halves", "not seen to be ahead of words alone", "no"),
        (0.2, SINGLE, "is not seen here", "no"),
    ],
)
def test_a_model_that_is_not_worth_its_cost_is_told_so(model, structure, said, tone):
    noise = np.random.default_rng(0).normal(0, 0.05, 60)
    noise -= noise.mean()
    parts = Parts(["a"] * 60, ["b"] * 60, np.arange(60), structure)
    vars(parts)["words"] = (np.full(60, 0.5), np.full(60, 0.5))
    found = against(ranked(model + noise), parts, 0)
    assert said in found.sentence and found.tone == tone
    assert ("not worth its cost" in found.sentence) == (tone == "worse")
    if structure != SINGLE:
        ahead = strip(found.difference)
        assert ahead.low <= ahead.middle <= ahead.high and 0 < ahead.low and ahead.high < 100
        assert (ahead.middle > 50) == (model > 0.5) or tone == "no"


def test_the_summary_to_copy_says_all_of_it(page):
    content = page[0].read_text(encoding="utf-8")
    (summary,) = re.findall(r"<pre class=st-card tabindex=0[^>]*>(.*?)</pre>", content, re.DOTALL)
    found = page[1]
    assert _sentence(found) in summary and f"{found.low:+.3f}" in summary and "words alone" in summary.lower()
    assert f"words (TF-IDF){found.words['everywhere']:11.3f}" in summary and "user-select:all" in content
    assert content.index("st-card words") < content.index("All at one glance") < content.index("<pre")


def test_zones_say_from_where_on_a_change_counts(page):
    for difference in (-0.3, 0.0, 0.2):
        strip = changed(replace(page[1], difference=difference, low=difference - 0.05, high=difference + 0.05))
        bad, even, good = strip.zones
        assert (bad.tone, even.tone, good.tone) == ("bad", "open", "good")
        assert even.left == pytest.approx(50 - 50 * page[1].least_loss / strip.reach) and bad.left == 0
        assert good.left + good.width == pytest.approx(100) and 0 < strip.low < strip.middle < strip.high < 100


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page, browser, width, scheme):
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    told, asked = [], []
    view.on("console", lambda message: told.append(message.text))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page[0].as_uri())
    assert view.title() == "Did tuning help?" and not told
    assert [url for url in asked if not url.startswith("data:")] == [page[0].as_uri()]
    assert view.eval_on_selector_all("img", "all => all.length && all.every(one => one.naturalWidth > 100)")
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colour = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) > 380) == (scheme == "light")
    (dark, light) = re.findall("base64,([^']+)'", page[0].read_text(encoding="utf-8"))[:2]
    assert view.evaluate("document.querySelector('img').currentSrc").endswith(dark if scheme == "dark" else light)
    view.click("pre")
    selected = view.evaluate("getSelection().toString()")
    assert selected.strip() == view.inner_text("pre").strip() and "words (TF-IDF)" in selected
    view.keyboard.press("Tab")
    view.locator("summary").focus()
    view.keyboard.press("Enter")
    view.locator("details .near").first.wait_for()
    assert view.locator(".near").count() == 20


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
