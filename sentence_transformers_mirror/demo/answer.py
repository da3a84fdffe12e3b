"""An answer of the page as HTML. The template escapes all that comes from the index and from who asks."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader

from sentence_transformers_mirror.demo.asked import LONGEST, Asked, parse_filter
from sentence_transformers_mirror.demo.chart import Chart
from sentence_transformers_mirror.printable import printable
from sentence_transformers_mirror.search import Hit, SearchIndex
from sentence_transformers_mirror.search.fusion import MODES
from sentence_transformers_mirror.search.words import pieces, terms_of

_GLANCE, _WHOLE = 420, 20_000  # characters of a text that are shown at once, and after a click
_NAME = 90  # characters of the name of a point
_VALUE = 60  # characters of a value of metadata

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


class Chip(NamedTuple):
    """A value of metadata, and the link that searches among the texts that have it, where there can be one."""

    key: str
    value: str
    link: str | None


@dataclass(frozen=True)
class Card:
    """A hit as it is shown; pieces of texts come each with whether it is a word of the query."""

    number: int  # its place, from 1
    hit: Hit
    share: float  # the length of its bar, 0 to 1
    text: list[tuple[str, bool]]
    whole: list[tuple[str, bool]] | None  # the whole text, if that is longer
    chips: list[Chip]
    place: list[float]  # on the map, 0 to 1 both ways
    like: str  # the link that searches for texts like it
    change: str | None = None  # how its place differs from that in the other index, in words


@dataclass(frozen=True)
class Side:
    """An index on the page, and its map."""

    index: SearchIndex
    chart: Chart
    name: str | None = None  # beside another index

    @cached_property
    def model(self) -> str:
        """The name of its model, without the folders of this machine."""
        return Path(self.index.facts()["model"] or "a model without a name").name

    @cached_property
    def language(self) -> str | None:
        """Whose words are stemmed."""
        return self.index.facts()["language"]

    @cached_property
    def _common(self) -> frozenset[str]:
        return self.chart.sample.common(self.language)

    def telling(self, query: str) -> str:
        """What is marked in texts: the query without words such as *the*, if it has others."""
        words = query.split()
        kept = [word for word in words if not self._common.issuperset(terms_of(word, self.language))]
        return " ".join(kept or words)

    @cached_property
    def points(self) -> list[tuple[float, float, str]]:
        """Places and names of the texts on the map."""
        return [
            (x, y, _cut(" ".join(text.split()), _NAME))
            for (x, y), text in zip(self.chart.places.tolist(), self.chart.sample.texts, strict=True)
        ]

    def answer(self, asked: Asked) -> Answer:
        """Search it."""
        start = time.perf_counter()
        try:
            hits = self.index.search(asked.query, asked.top_k, where=parse_filter(asked.where), mode=asked.mode)
        except (OSError, TypeError, ValueError) as error:
            return Answer(self, error=printable(error))
        took = time.perf_counter() - start
        # A cosine has a bar of its own; BM25 has no largest value but that of the best hit.
        best = 1.0 if asked.mode == "meaning" else max((hit.score for hit in hits), default=0.0) or 1.0
        telling = self.telling(asked.query)
        cards = []
        for number, (hit, place) in enumerate(zip(hits, self.chart.place(hits).tolist(), strict=True), start=1):
            text = hit.text if hit.passage is None else hit.passage
            shown = _cut(text, _GLANCE)
            more = shown != text or text != hit.text
            card = Card(
                number=number,
                hit=hit,
                share=min(max(hit.score / best, 0.0), 1.0),
                text=list(pieces(shown, telling, self.language)),
                whole=list(pieces(_cut(hit.text, _WHOLE), telling, self.language)) if more else None,
                chips=[
                    Chip(key, _told(one), None if isinstance(one, (dict, list)) else asked.only(key, one).link)
                    for key, value in hit.metadata.items()
                    for one in (value if isinstance(value, list) else [value])
                ],
                place=place,
                like=asked.like(text).link,
            )
            cards.append(card)
        return Answer(self, cards, took)


@dataclass(frozen=True)
class Answer:
    """What an index answers: cards, or what was wrong with the question."""

    side: Side
    cards: list[Card] = field(default_factory=list)
    took: float = 0.0
    error: str | None = None

    def beside(self, other: Answer, before: bool) -> Answer:
        """The same with what changed from before to after, or from after to before."""
        places = {card.hit.id: card.number for card in other.cards}

        def change(card: Card) -> str:
            there = places.get(card.hit.id)
            if there is None:
                return "gone after" if before else "new"
            if there == card.number:
                return "same place"
            return f"{'after' if before else 'before'}: {there}"

        return replace(self, cards=[replace(card, change=change(card)) for card in self.cards])


def head(sides: list[Side]) -> str:
    """What is searched, HTML."""
    return _templates.from_string(
        '<header class="st st-head"><h1>Search {{ "{:,}".format(sides[-1].index | length) }} texts</h1>'
        '<p class="st-soft">{{ sides | map(attribute="model") | join(" and ") }}: '
        "by meaning, by words or by both</p></header>"
    ).render(sides=sides)


def rendered(sides: list[Side], asked: Asked, examples: list[str]) -> str:
    """The answer to a question, HTML; to none, what can be asked."""
    answers = []
    if max(len(asked.query), len(asked.where)) > LONGEST:  # every link would hold it
        asked = replace(asked, query="", where="")
        told = f"A query and a filter have {LONGEST:,} characters here at most: shorten yours."
        answers = [Answer(side, error=told) for side in sides]
    elif asked.query.strip():
        answers = [side.answer(asked) for side in sides]
        if len(answers) == 2 and not any(one.error for one in answers):
            first, second = answers
            answers = [first.beside(second, before=True), second.beside(first, before=False)]
    errors = {one.error for one in answers}
    return _templates.get_template("answer.html.jinja").render(
        asked=asked,
        answers=answers or [Answer(side) for side in sides],
        blank=not answers,
        error=errors.pop() if len(errors) == 1 else None,
        conditions=[Chip(key, _told(value), asked.whatever(key).link) for key, value in asked.conditions.items()],
        examples=[(text, replace(asked, query=text).link) for text in examples],
        others=[(mode, replace(asked, mode=mode).link) for mode in MODES if mode != asked.mode],
        unfiltered=replace(asked, where="").link,
    )


def _told(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _VALUE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
