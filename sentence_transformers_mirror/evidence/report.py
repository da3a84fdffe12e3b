"""What tuning changed, on one page: the verdict, what it rests on, and what neighbours look like now.

One HTML file that needs no network and runs no script: pictures lie in it as data, in colours for light and for dark,
and what texts say is escaped.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer

try:
    from jinja2 import Environment, FileSystemLoader
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "The report needs matplotlib and jinja2: pip install 'sentence-transformers-mirror[plot]'."
    ) from error

from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.evidence import geometry, verdict
from sentence_transformers_mirror.evidence.evaluation import evaluate
from sentence_transformers_mirror.evidence.parts import SINGLE, Parts, split_parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement
from sentence_transformers_mirror.models import load_model

INK, BEFORE, AFTER, WORDS = "#1c1917", "#8a8f98", "#c2410c", "#3f6212"
# The same on a dark page, as in look.css.
_DARK = {INK: "#f0ecea", BEFORE: "#9aa0aa", AFTER: "#fb923c", WORDS: "#a3c464"}
_SHOWN, _OPEN = 20, 5  # texts with their neighbours, and those that are seen at once
_NEIGHBOURS = 3

_SENTENCES = {
    "better": "The model after tuning is better on these texts.",
    "worse": "The model after tuning is worse on these texts.",
    "no evidence": "There is no evidence that tuning changed how good the model is on these texts.",
    "small fall": "The model after tuning ranks these texts lower, but by too little to call it worse: be careful.",
    "damaged": "The model after tuning is damaged: it no longer recognises texts of which it sees most words.",
}


class Bar(NamedTuple):
    """A mean reciprocal rank and its 95% interval, all 0 to 1."""

    name: str
    tone: str
    mean: float
    low: float
    high: float


class Zone(NamedTuple):
    """A part of a strip, in percent of it."""

    tone: str
    left: float
    width: float


class Strip(NamedTuple):
    """A difference and its interval, in percent of a strip that has 0 in its middle and reaches so far both ways."""

    middle: float
    low: float
    high: float
    reach: float
    zones: list[Zone]


class Against(NamedTuple):
    """What there is to say of words alone: a sentence, and the class of its card."""

    sentence: str
    tone: str
    difference: tuple[float, float, float] | None


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
    """Compare two models as `verdict.compare` does, and write the page.

    ``labels`` is a folder of labelled sets, whose scores are then on the page, too; ``losses`` are those of the steps
    of tuning, if they are known; ``plots`` is a folder for the pictures as PNG files, made if it does not exist.
    """
    parts = split_parts(texts, structure, language=language, seed=seed)
    models = [load_model(model) for model in (before, after)]
    measured = [
        verdict.measure(model, parts, called=verdict.called(given))
        for model, given in zip(models, (before, after), strict=True)
    ]
    found = verdict.judge(measured[0], measured[1], parts, seed=seed)
    scores = [] if labels is None else [evaluate(model, labels) for model in models]
    ranks = bars(measured, parts, seed)
    figures = {"cosines": _cosines(measured), "spectrum": _spectrum(measured)}
    if len(losses) > 1:
        figures["loss"], axes = _figure("step")
        axes.plot(np.arange(1, len(losses) + 1), losses, color=AFTER)
        axes.set_ylabel("loss")
    if plots is not None:
        Path(plots).mkdir(parents=True, exist_ok=True)
        for name, figure in {"ranks": _ranks(ranks), **figures}.items():  # the page draws ranks itself, for any screen
            figure.savefig(Path(plots, f"{name}.png"), dpi=130, metadata={"Software": None})
    words = against(measured[1], parts, seed)
    sentence = _sentence(found)
    change = (
        f"The mean reciprocal rank changed by {found.difference:+.3f} (95% interval {found.low:+.3f} to "
        f"{found.high:+.3f})."
    )
    here = Path(__file__).parent
    pages = Environment(
        loader=FileSystemLoader([here, here.parent]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = pages.get_template("report.html.jinja").render(
        found=found,
        sentence=sentence,
        change=change,
        pictures={name: _svg(figure) for name, figure in figures.items()},
        sets=list(zip(*scores, strict=True)),
        neighbours=_neighbours(parts, measured, seed),
        nearest=_NEIGHBOURS,
        open=_OPEN,
        against=words,
        glance=ranks,
        changed=changed(found),
        ahead=None if words.difference is None else strip(words.difference),
        summary="\n".join([sentence, change, words.sentence, "", *found.summary().splitlines()[1:]]),
        made=environment(),
    )
    Path(output).write_text(page, encoding="utf-8")
    return found


def bars(measured: list[Measurement], parts: Parts, seed: int) -> dict[str, list[Bar]]:
    """Before, after and TF-IDF, among all texts and among look-alikes."""
    before, after = measured
    rows = [
        ("before", "before", before.everywhere, before.among_look_alikes),
        ("after", "after", after.everywhere, after.among_look_alikes),
        ("words", "tfidf", *parts.words),
    ]
    return {
        where: [
            Bar(name, tone, float(ranks[kind].mean()), *verdict.bootstrap(ranks[kind], parts.documents, seed))
            for name, tone, *ranks in rows
        ]
        for kind, where in enumerate(("everywhere", "among look-alikes"))
    }


def against(after: Measurement, parts: Parts, seed: int) -> Against:
    """Whether a model earns its cost, which words alone do not have."""
    if parts.structure == SINGLE:
        return Against(
            "Whether the model is worth its cost is not seen here: the questions are the texts themselves with words "
            "hidden, so that words find them by design.",
            "no",
            None,
        )
    found = difference, low, high = verdict.against_words(after, parts, seed)
    interval = f"{abs(difference):.3f} (95% interval of the difference {low:+.3f} to {high:+.3f})"
    if high < 0:
        return Against(
            f"Words alone (TF-IDF) are better: the model after tuning is behind them by {interval}. For search in "
            "such texts it is not worth its cost by itself: search by words, or see whether both together are better.",
            "worse",
            found,
        )
    if low > 0:
        return Against(f"The model after tuning is ahead of words alone (TF-IDF) by {interval}.", "better", found)
    return Against(
        f"The model after tuning is not seen to be ahead of words alone (TF-IDF): the two differ by {interval}. Words "
        "cost less.",
        "no",
        found,
    )


def changed(found: Evidence) -> Strip:
    """What tuning changed, and from where on it counts."""
    return strip((found.difference, found.low, found.high), -found.least_loss, found.least_gain)


def strip(difference: tuple[float, float, float], worse: float = 0, better: float = 0) -> Strip:
    """A difference and the ends of its interval, with zones below what is worse and above what is better."""
    reach = 1.15 * max(abs(number) for number in (*difference, worse, better, 0.01))

    def place(number: float) -> float:
        return 50 + 50 * number / reach

    ends = [0.0, place(worse), place(better), 100.0]
    pairs = zip(("bad", "open", "good"), itertools.pairwise(ends), strict=True)
    zones = [Zone(tone, left, right - left) for tone, (left, right) in pairs if right > left]
    middle, low, high = map(place, difference)
    return Strip(middle, low, high, reach, zones)


def _ranks(bars: dict[str, list[Bar]]) -> Figure:
    names = ("before", BEFORE), ("after", AFTER), ("words alone (TF-IDF)", WORDS)
    figure, axes = _figure("mean reciprocal rank (1 is perfect)", (9, 3))
    for number, ((name, colour), both) in enumerate(zip(names, zip(*bars.values(), strict=True), strict=True)):
        means, lows, highs = np.array([(bar.mean, bar.low, bar.high) for bar in both]).T
        places = np.arange(2) + 0.27 * (1 - number)
        axes.barh(places, means, 0.24, color=colour, label=name)
        axes.errorbar(means, places, xerr=np.abs([lows, highs] - means), fmt="none", ecolor=INK, capsize=3)
        for place, mean, high in zip(places, means, highs, strict=True):
            axes.text(high + 0.01, place, f"{mean:.3f}", va="center", fontsize=9)
    axes.set_yticks([0, 1], ["among all", "among look-alikes"])
    axes.set_xlim(0, 1.08)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _cosines(measured: list[Measurement]) -> Figure:
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    both = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, one, name in zip(both, measured, ("before", "after"), strict=True):
        positive = (one.queries * one.passages).sum(axis=1).clip(-1, 1)
        chance = geometry.chance_cosines(one.queries, one.passages).clip(-1, 1)
        bins = np.linspace(min(positive.min(), chance.min(), 0.999), 1, 61)  # never of no width
        axes.hist(chance, bins, density=True, color=BEFORE, alpha=0.7, label="parts of two texts")
        axes.hist(positive, bins, density=True, color=AFTER, alpha=0.7, label="parts of one text")
        axes.set_title(name, fontsize=10)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    both[1].set_xlabel("cosine similarity")
    figure.legend(*both[0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=2)
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


# Inches, small enough for words to be read on a phone.
def _figure(label: str, size: tuple[float, float] = (4.6, 2.6)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> tuple[str, str]:
    """A picture without a background as base64, for a light page and for a dark one."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    # What is black comes with a colour, but for texts, which have that of the whole.
    light = stream.getvalue().replace("#000000", INK).replace("<svg ", f'<svg fill="{INK}" ', 1)
    dark = light
    for colour, other in _DARK.items():
        dark = dark.replace(colour, other)
    return base64.b64encode(light.encode()).decode(), base64.b64encode(dark.encode()).decode()


def _neighbours(
    parts: Parts, measured: list[Measurement], seed: int
) -> list[tuple[str, list[tuple[str, bool]], list[tuple[str, bool]]]]:
    """Some texts, and their nearest passages before and after, with whether only this model has them there."""
    count = len(parts.passages)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[:_SHOWN])
    nearest = []
    for one in measured:
        scores = one.passages[rows] @ one.passages.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :_NEIGHBOURS].tolist())

    def told(mine: list[int], other: list[int]) -> list[tuple[str, bool]]:
        return [(parts.passages[near], near not in other) for near in mine]

    return [
        (parts.passages[row], told(before, after), told(after, before))
        for row, before, after in zip(rows.tolist(), *nearest, strict=True)
    ]


def _sentence(found: Evidence) -> str:
    return _SENTENCES["small fall" if found.verdict == "no evidence" and found.high < 0 else found.verdict]
