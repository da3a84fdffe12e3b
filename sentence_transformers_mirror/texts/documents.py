"""Files with headings as documents: each heading is a title, and what stands below it is the body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

# What a reader of the page does not read.
_UNREAD = {"script", "style", "template", "svg", "nav"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6", "title"}
# Text that stands beside, and not after, what came before.
_INLINE = set("a abbr b bdi cite code em i kbd mark q s small span strong sub sup tt u var".split())
_INSTALL = "pip install 'sentence-transformers-mirror[documents]'"


def has_headings(path: Path) -> bool:
    """Whether a file is Markdown, reStructuredText or HTML, by its name."""
    return path.suffix.lower() in _TO_HTML


def read_sections(path: Path) -> Iterator[tuple[str, str]]:
    """Title and body of each section of a Markdown, reStructuredText or HTML file, white space folded.

    A heading opens a section, and the next one, of any level, closes it; what stands before the first heading has an
    empty title, and a heading with nothing below it an empty body. Markup, scripts and navigation are left out.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from None
    parser = _Sections()
    parser.feed(_TO_HTML[path.suffix.lower()](text))
    parser.close()
    for section in parser.sections:
        title, body = (" ".join("".join(parts).split()) for parts in section)
        if title or body:
            yield title, body


class _Sections(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sections: list[tuple[list[str], list[str]]] = [([], [])]
        self.unread = 0
        self.in_heading = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _HEADINGS:
            self.sections.append(([], []))
            self.in_heading = True
        self.unread += tag in _UNREAD
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HEADINGS:
            self.in_heading = False
        self.unread -= tag in _UNREAD and self.unread > 0
        self._space(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._space(tag)

    def handle_data(self, data: str) -> None:
        if not self.unread:
            self.sections[-1][0 if self.in_heading else 1].append(data)

    def _space(self, tag: str) -> None:
        if tag not in _INLINE:
            self.handle_data(" ")


def _from_markdown(text: str) -> str:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise ImportError(f"Reading Markdown needs markdown-it-py: {_INSTALL}.") from None
    return MarkdownIt("commonmark").enable("table").render(text)


def _from_restructured_text(text: str) -> str:
    try:
        from docutils.core import publish_parts
    except ImportError:
        raise ImportError(f"Reading reStructuredText needs docutils: {_INSTALL}.") from None
    # Roles and directives of Sphinx are unknown here, and no reason to complain; nothing outside the file is read.
    refused = dict.fromkeys(("file_insertion_enabled", "raw_enabled", "embed_stylesheet", "doctitle_xform"), False)
    settings = {"report_level": 5, "halt_level": 5, **refused}
    text = re.sub(r":[a-zA-Z][\w:+.-]*:`", "`", text)  # a role that is unknown would be shown with its name
    return publish_parts(text, writer="html5", settings_overrides=settings)["body"]


_TO_HTML: dict[str, Callable[[str], str]] = {
    **dict.fromkeys((".md", ".markdown"), _from_markdown),
    ".rst": _from_restructured_text,
    **dict.fromkeys((".html", ".htm"), str),
}
