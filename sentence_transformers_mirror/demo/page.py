"""The page, as gradio's blocks: a form, and an answer that is made anew for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio

from sentence_transformers_mirror.demo.answer import Side, head, rendered
from sentence_transformers_mirror.demo.asked import MOST, Asked
from sentence_transformers_mirror.demo.chart import Chart, Sample
from sentence_transformers_mirror.search import SearchIndex
from sentence_transformers_mirror.search.fusion import MODES, Mode

_HERE = Path(__file__).parent
LOOK = "\n".join(file.read_text(encoding="utf-8") for file in (_HERE.parent / "look.css", _HERE / "page.css"))


def page(index: SearchIndex, before: SearchIndex | None = None) -> gradio.Blocks:
    """The page, a ``gradio.Blocks``.

    Args:
        index: An index that has a model.
        before: Another index, to be seen beside it.
    """
    sides = both_sides(index, before)
    examples = sides[-1].chart.sample.examples()

    def search(query: str | None, top_k: float, where: str | None, mode: Mode) -> str:
        # gradio gives None for a box that nobody has typed into.
        return rendered(sides, Asked(query or "", int(top_k), where or "", mode), examples)

    def ask(link: str) -> tuple[str, int, str, Mode, str]:
        asked = Asked.by(link)
        return asked.query, asked.top_k, asked.where, asked.mode, rendered(sides, asked, examples)

    def follow(event: gradio.EventData) -> tuple[str, int, str, Mode, str]:
        return ask(str(event.to))

    def arrive(request: gradio.Request) -> Any:
        asked = str(request.query_params)
        # Where nothing is asked there is nothing to show, and somebody may be typing already.
        return gradio.skip() if Asked.by(asked) == Asked() else ask(asked)

    with gradio.Blocks(title="st-mirror", analytics_enabled=False) as blocks:
        gradio.HTML(head(sides), apply_default_css=False, js_on_load=None)
        with gradio.Row(equal_height=True):
            query = gradio.Textbox(
                label="Query",
                show_label=False,
                container=False,
                placeholder="What are you looking for?",
                elem_id="query",
                scale=5,
                max_lines=1,
            )
            button = gradio.Button("Search", elem_id="search", variant="primary", scale=1, min_width=110)
        mode = gradio.Radio(list(MODES), value=Asked.mode, label="Search by", elem_id="mode", container=False)
        with gradio.Accordion("Filter and number of hits", open=False, elem_id="more"):
            where = gradio.Textbox(
                label="Filter on metadata, as JSON; a click on a value in a hit fills it in",
                placeholder='{"language": ["en", "de"]}',
                elem_id="where",
            )
            top_k = gradio.Slider(1, MOST, value=Asked.top_k, step=1, label="Hits", elem_id="top-k")
        answer = gradio.HTML(
            rendered(sides, Asked(), examples),
            elem_id="answer",
            apply_default_css=False,
            js_on_load=(_HERE / "page.js").read_text(encoding="utf-8"),
        )
        form = [query, top_k, where, mode]
        for event in (query.submit, button.click, where.submit, mode.input, top_k.release):
            event(search, form, answer, show_progress="hidden", api_name="search")
        everything = [*form, answer]
        answer.click(follow, None, everything, show_progress="hidden", api_visibility="private")
        blocks.load(arrive, None, everything, show_progress="hidden", api_visibility="private")
    return blocks


def both_sides(index: SearchIndex, before: SearchIndex | None) -> list[Side]:
    """The index, and before it the other one; their maps show the same texts where there are such."""
    sample = Sample.of(index)
    if before is None:
        return [Side(index, Chart(sample))]
    shared = Sample.of(before, sample.ids)
    first = Chart(shared if len(shared.ids) > 2 else Sample.of(before))
    return [Side(before, first, "Before"), Side(index, Chart(sample, like=first), "After")]
