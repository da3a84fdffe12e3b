"""What tuning changed, on one page: the verdict, what it rests on, and what neighbours look like now.

One HTML file that needs no network and runs no script: pictures lie in it as data, and what texts say is escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("The report needs matplotlib: pip install 'sentence-transformers-mirror[plot]'.") from error

from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.evidence import geometry
from sentence_transformers_mirror.evidence.evaluation import Score, evaluate
from sentence_transformers_mirror.evidence.parts import Parts, split_parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement, bootstrap, judge, measure
from sentence_transformers_mirror.models import load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Neighbours = tuple[str, list[list[tuple[str, bool]]]]  # a text, and what is near it before and after; True is new

BEFORE, AFTER, WORDS = "#8a8f98", "#c2410c", "#3f6212"
_SHOWN, _OPEN = 20, 5  # texts with their neighbours, and those that are seen at once
_NEIGHBOURS = 3
_GLANCE = 120  # characters of a text that are shown

_SENTENCES = {
    "better": "The model after tuning is better on these texts.",
    "worse": "The model after tuning is worse on these texts.",
    "no evidence": "There is no evidence that tuning changed how good the model is on these texts.",
    "small fall": "The model after tuning ranks these texts lower, but by too little to call it worse: be careful.",
    "damaged": "The model after tuning is damaged: it no longer recognises texts of which it sees most words.",
}
_GEOMETRY = {
    "alignment": "how far apart parts of one text are (squared distance, 0 to 4): lower is closer",
    "uniformity": "how evenly vectors fill the sphere: lower is more even",
    "isotropy": "whether all directions are used alike, 0 to 1",
    "mean vector norm": "length of the mean of all vectors: what all texts have in common",
    "effective rank": "how many directions are in use",
    "mean cosine of random pairs": "how alike texts seem that have nothing to do with each other",
}

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1917}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem}
.verdict{padding:1rem 1.25rem;border-left:.5rem solid;background:#f5f5f4;font-size:1.2rem}
.better{border-color:#3f6212}.worse,.damaged{border-color:#b91c1c}.no{border-color:#8a8f98}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .5rem;border-bottom:1px solid #e7e5e4;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}
img{max-width:100%}.new{background:#ffedd5}.gone{color:#8a8f98;text-decoration:line-through}
small,.note{color:#57534e}ol{margin:0;padding-left:1.2rem}li,code{overflow-wrap:anywhere}
.near{table-layout:fixed}summary{cursor:pointer;margin:.5rem 0}
"""


def write_report(
    before: SentenceTransformer | str | Path,
    after: SentenceTransformer | str | Path,
    texts: Iterable[str | tuple[str, str]],
    output: str | Path,
    *,
    labels: str | Path | None = None,
    losses: Sequence[float] = (),
    plots: str | Path | None = None,
    structure: str = "auto",
    language: str = "en",
    seed: int = 0,
) -> Evidence:
    """Compare two models and write the page.

    Args:
        before, after, texts, structure, language, seed: As in `verdict.compare`.
        output: The HTML file.
        labels: Folder of labelled sets, whose scores are then on the page, too; see `evaluation.evaluate`.
        losses: The loss of each step of tuning, if it is known.
        plots: Folder for the pictures as PNG files; made if it does not exist.

    Returns:
        The verdict with its numbers.

    Raises:
        OSError: If a file cannot be written.
        ValueError: As in `verdict.compare` and `evaluation.evaluate`.
    """
    parts = split_parts(texts, structure, language=language, seed=seed)
    models = [load_model(model) for model in (before, after)]
    measured = [measure(model, parts) for model in models]
    found = judge(*measured, parts, seed=seed)
    scores = [] if labels is None else [evaluate(model, labels) for model in models]
    figures = {
        "ranks": _ranks(parts, measured, seed),
        "cosines": _cosines(measured),
        "spectrum": _spectrum(measured),
    }
    if len(losses) > 1:
        figures["loss"] = _loss(losses)
    pictures = {name: _png(figure) for name, figure in figures.items()}
    if plots is not None:
        Path(plots).mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            Path(plots, f"{name}.png").write_bytes(picture)
    page = _page(found, pictures, _neighbours(parts, measured, seed), scores)
    Path(output).write_text(page, encoding="utf-8")
    return found


def _ranks(parts: Parts, measured: list[Measurement], seed: int) -> Figure:
    rows = [
        ("before", BEFORE, (measured[0].everywhere, measured[0].among_look_alikes)),
        ("after", AFTER, (measured[1].everywhere, measured[1].among_look_alikes)),
        ("words alone (TF-IDF)", WORDS, parts.words),
    ]
    figure, axes = _figure("mean reciprocal rank (1 is perfect)")
    for number, (name, colour, ranks) in enumerate(rows):
        means = [values.mean() for values in ranks]
        ends = np.array([bootstrap(values, parts.documents, seed) for values in ranks])
        places = np.arange(2) + 0.27 * (1 - number)
        axes.barh(places, means, 0.24, color=colour, label=name)
        axes.errorbar(means, places, xerr=np.abs(ends.T - means), fmt="none", ecolor="black", capsize=3)
        for place, mean, end in zip(places, means, ends[:, 1], strict=True):
            axes.text(end + 0.01, place, f"{mean:.3f}", va="center", fontsize=9)
    axes.set_yticks([0, 1], ["among all", "among look-alikes"])
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _cosines(measured: list[Measurement]) -> Figure:
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, one, name in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), measured, ("before", "after"), strict=True
    ):
        positive = (one.queries * one.passages).sum(axis=1).clip(-1, 1)
        chance = geometry.chance_cosines(one.queries, one.passages).clip(-1, 1)
        bins = np.linspace(min(positive.min(), chance.min()), 1, 61)
        axes.hist(chance, bins, density=True, color=BEFORE, alpha=0.7, label="parts of two texts")
        axes.hist(positive, bins, density=True, color=AFTER, alpha=0.7, label="parts of one text")
        axes.set_title(name)
        axes.set_xlabel("cosine similarity")
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    return figure


def _spectrum(measured: list[Measurement]) -> Figure:
    figure, axes = _figure("principal axis, largest first")
    for one, name, colour in zip(measured, ("before", "after"), (BEFORE, AFTER), strict=True):
        shares = geometry.spectrum(one.passages)
        axes.plot(np.arange(1, len(shares) + 1), shares.cumsum(), color=colour, label=name)
    axes.set_xscale("log")
    axes.set_ylabel("share of the variance up to it")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return figure


def _loss(losses: Sequence[float]) -> Figure:
    figure, axes = _figure("step")
    axes.plot(np.arange(1, len(losses) + 1), losses, color=AFTER)
    axes.set_ylabel("loss")
    return figure


def _figure(label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _neighbours(parts: Parts, measured: list[Measurement], seed: int) -> list[Neighbours]:
    """Some texts, and for each model their nearest passages with whether only this model has them there."""
    count = len(parts.passages)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:_SHOWN])
    nearest = []
    for one in measured:
        scores = one.passages[rows] @ one.passages.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :_NEIGHBOURS].tolist())
    return [
        (
            parts.passages[row],
            [
                [(parts.passages[near], near not in other[number]) for near in mine[number]]
                for mine, other in ((nearest[0], nearest[1]), (nearest[1], nearest[0]))
            ],
        )
        for number, row in enumerate(rows.tolist())
    ]


def _page(
    found: Evidence,
    pictures: dict[str, bytes],
    neighbours: list[Neighbours],
    scores: list[list[Score]],
) -> str:
    words = {key: f"{found.words[key]:.3f}" for key in ("everywhere", "among look-alikes")}
    sections = [
        "<h1>Did tuning help?</h1>",
        f"<p class='verdict {found.verdict.split()[0]}'><b>{_sentence(found)}</b><br>"
        f"The mean reciprocal rank changed by {found.difference:+.3f} (95% interval {found.low:+.3f} to "
        f"{found.high:+.3f}).</p>",
        f"<p>No labels were used. {found.pairs:,} pairs of parts that belong together ({found.structure}) were cut "
        f"from {found.documents:,} texts. One part is the question; a good model finds the other part near the top of "
        "all other texts. If it is always first, the mean reciprocal rank is 1; if it is second, 0.5; tenth, 0.1. It "
        f"is better if the whole interval is above {found.least_gain:g}, and worse if it is below "
        f"{-found.least_loss:g}: where labels were looked at, smaller falls went with better scores as well as with "
        "worse ones.</p>",
        "<h2>How high the right text ranks</h2>",
        _image(pictures["ranks"], "Mean reciprocal ranks before, after and of TF-IDF, with intervals"),
        "<p class=note>Lines are 95% intervals over texts. Look-alikes are the texts that share the most telling "
        "words, so that among them words tell less. Comparing words (TF-IDF) reaches "
        f"{words['everywhere']} and {words['among look-alikes']}; a model below that is not worth its cost for search "
        "in such texts.</p>",
    ]
    if scores:
        rows = list(zip(*scores, strict=True))
        absent = dict.fromkeys(old.name for old, _ in rows if old.value is None)
        sections += [
            "<h2>Where there are labels</h2>",
            "<table><tr><th>set<th>measure<th class=n>before<th class=n>after<th class=n>pairs or mentions</tr>",
            *(
                f"<tr><td>{_text(old.name)}<td>{old.metric}<td class=n>{old.value:.2f}<td class=n>{new.value:.2f}"
                f"<td class=n>{old.size:,}</tr>"
                for old, new in rows
                if old.value is not None
            ),
            "</table>",
        ]
        if absent:
            sections.append(f"<p class=note>Absent: {', '.join(map(_text, absent))}.</p>")
    sections += [
        "<h2>How alike texts seem to the model</h2>",
        _image(pictures["cosines"], "Histograms of cosine similarity before and after"),
        "<p class=note>The further the two hills are apart, the easier it is to set a threshold. That hills move to "
        "the left is no loss: what counts is the gap.</p>",
    ]
    if "loss" in pictures:
        sections += ["<h2>The loss while tuning</h2>", _image(pictures["loss"], "Loss by step")]
    sections += [
        "<h2>Where the vectors lie</h2>",
        _image(pictures["spectrum"], "Cumulative share of the variance by principal axis"),
        "<p class=note>A curve that rises at once uses few directions. These numbers describe; they have no vote in "
        "the verdict, since they are known to follow the quality of search poorly.</p>",
        "<table><tr><th><th class=n>before<th class=n>after<th></tr>",
        *(
            f"<tr><td>{name}<td class=n>{found.before[name]:.3g}<td class=n>{found.after[name]:.3g}"
            f"<td class=note>{meaning}</tr>"
            for name, meaning in _GEOMETRY.items()
        ),
        "</table>",
        "<h2>What changed for some of the texts</h2>",
        f"<p class=note>The {_NEIGHBOURS} nearest texts; struck through are those that left, marked those that "
        "came.</p>",
        _table_of(neighbours[:_OPEN]),
    ]
    if neighbours[_OPEN:]:
        sections.append(
            f"<details><summary>{len(neighbours) - _OPEN} more</summary>{_table_of(neighbours[_OPEN:])}</details>"
        )
    made = environment()
    versions = ", ".join(f"{name} {value}" for name, value in made.items() if name != "command")
    sections.append(
        f"<p><small>Made by <code>{html.escape(made['command'])}</code> with {html.escape(versions)}.</small></p>"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        "<meta http-equiv=Content-Security-Policy "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Did tuning help?</title><style>{_STYLE}</style>\n" + "\n".join(sections) + "\n</html>\n"
    )


def _sentence(found: Evidence) -> str:
    return _SENTENCES["small fall" if found.verdict == "no evidence" and found.high < 0 else found.verdict]


def _table_of(neighbours: list[Neighbours]) -> str:
    rows = (
        f"<tr><td>{_text(text)}<td>{_list(near[0], 'gone')}<td>{_list(near[1], 'new')}</tr>"
        for text, near in neighbours
    )
    return f"<table class=near><tr><th>text<th>nearest before<th>nearest after</tr>{''.join(rows)}</table>"


def _image(picture: bytes, words: str) -> str:
    return f"<img alt='{words}' src='data:image/png;base64,{base64.b64encode(picture).decode()}'>"


def _list(texts: list[tuple[str, bool]], changed: str) -> str:
    items = (f"<li><span class={changed}>{_text(text)}</span>" if new else f"<li>{_text(text)}" for text, new in texts)
    return f"<ol>{''.join(items)}</ol>"


def _text(text: str) -> str:
    """Escaped, and no longer than can be read at a glance."""
    return html.escape(text if len(text) <= _GLANCE else text[: _GLANCE - 3] + "...")
