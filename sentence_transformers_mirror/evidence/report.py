"""What tuning changed, on one page: the verdict, what it rests on, and what neighbours look like now.

One HTML file that needs no network and runs no script: pictures lie in it as data, in colours for light and for dark,
and what texts say is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from jinja2 import Environment, FileSystemLoader
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "The report needs matplotlib and jinja2: pip install 'sentence-transformers-mirror[plot]'."
    ) from error

from sentence_transformers_mirror.environment import environment
from sentence_transformers_mirror.evidence import geometry, glance
from sentence_transformers_mirror.evidence.evaluation import Score, evaluate
from sentence_transformers_mirror.evidence.parts import Parts, split_parts
from sentence_transformers_mirror.evidence.verdict import Evidence, Measurement, bootstrap, called, judge, measure
from sentence_transformers_mirror.models import load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Neighbours = tuple[str, list[list[tuple[str, bool]]]]  # a text, and what is near it before and after; True is new

INK, BEFORE, AFTER, WORDS = "#1c1917", "#8a8f98", "#c2410c", "#3f6212"
# The same on a dark page, as in look.css.
_DARK = {INK: "#f0ecea", BEFORE: "#9aa0aa", AFTER: "#fb923c", WORDS: "#a3c464"}
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
    measured = [
        measure(model, parts, called=called(given)) for model, given in zip(models, (before, after), strict=True)
    ]
    found = judge(measured[0], measured[1], parts, seed=seed)
    scores = [] if labels is None else [evaluate(model, labels) for model in models]
    figures = {
        "ranks": _ranks(parts, measured, seed),
        "cosines": _cosines(measured),
        "spectrum": _spectrum(measured),
    }
    if len(losses) > 1:
        figures["loss"] = _loss(losses)
    if plots is not None:
        Path(plots).mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            Path(plots, f"{name}.png").write_bytes(_png(figure))
    del figures["ranks"]  # which the page draws itself, to fit any screen
    against = glance.against(measured[1], parts, seed)
    page = _page(
        found,
        {name: _svg(figure) for name, figure in figures.items()},
        _neighbours(parts, measured, seed),
        scores,
        against=against,
        glance=glance.bars(measured, parts, seed),
        changed=glance.changed(found),
        ahead=None if against.difference is None else glance.ahead(against.difference),
        summary=glance.lines(found, [_sentence(found), _change(found), against.sentence]),
    )
    Path(output).write_text(page, encoding="utf-8")
    return found


def _ranks(parts: Parts, measured: list[Measurement], seed: int) -> Figure:
    rows = [
        ("before", BEFORE, (measured[0].everywhere, measured[0].among_look_alikes)),
        ("after", AFTER, (measured[1].everywhere, measured[1].among_look_alikes)),
        ("words alone (TF-IDF)", WORDS, parts.words),
    ]
    figure, axes = _figure("mean reciprocal rank (1 is perfect)", (9, 3))
    for number, (name, colour, ranks) in enumerate(rows):
        means = [values.mean() for values in ranks]
        ends = np.array([bootstrap(values, parts.documents, seed) for values in ranks])
        places = np.arange(2) + 0.27 * (1 - number)
        axes.barh(places, means, 0.24, color=colour, label=name)
        axes.errorbar(means, places, xerr=np.abs(ends.T - means), fmt="none", ecolor=INK, capsize=3)
        for place, mean, end in zip(places, means, ends[:, 1], strict=True):
            axes.text(end + 0.01, place, f"{mean:.3f}", va="center", fontsize=9)
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


def _loss(losses: Sequence[float]) -> Figure:
    figure, axes = _figure("step")
    axes.plot(np.arange(1, len(losses) + 1), losses, color=AFTER)
    axes.set_ylabel("loss")
    return figure


# Inches, small enough for words to be read on a phone.
def _figure(label: str, size: tuple[float, float] = (4.6, 2.6)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


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
    pictures: dict[str, tuple[str, str]],
    neighbours: list[Neighbours],
    scores: list[list[Score]],
    **shown: Any,
) -> str:
    """The template filled in; what comes from data is escaped there."""
    here = Path(__file__).parent
    page = Environment(
        loader=FileSystemLoader([here, here.parent]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page.filters["glance"] = _glance
    sets = list(zip(*scores, strict=True))
    made = environment()
    return page.get_template("report.html.jinja").render(
        found=found,
        sentence=_sentence(found),
        change=_change(found),
        pictures=pictures,
        sets=[(old, new) for old, new in sets if old.value is not None],
        absent=list(dict.fromkeys(old.name for old, _ in sets if old.value is None)),
        geometry=_GEOMETRY,
        nearest=_NEIGHBOURS,
        shown=neighbours[:_OPEN],
        folded=neighbours[_OPEN:],
        command=made["command"],
        versions=", ".join(f"{name} {value}" for name, value in made.items() if name != "command"),
        **shown,
    )


def _change(found: Evidence) -> str:
    return (
        f"The mean reciprocal rank changed by {found.difference:+.3f} (95% interval {found.low:+.3f} to "
        f"{found.high:+.3f})."
    )


def _sentence(found: Evidence) -> str:
    return _SENTENCES["small fall" if found.verdict == "no evidence" and found.high < 0 else found.verdict]


def _glance(text: str) -> str:
    """No more of a text than can be read at a glance."""
    return text if len(text) <= _GLANCE else text[: _GLANCE - 3] + "..."
