"""Parts of a text: its title, its body and its sentences."""

from __future__ import annotations

from collections.abc import Iterator

TITLES = "title and body"  # a structure that can be taught or asked, see `evidence.parts.Parts`
# sentencex takes time that grows with the square of nested brackets; no sentence is nearly as long as this.
_PIECE = 5_000  # characters


def split_title(title: str, text: str) -> tuple[str, str]:
    """Title and body: a title with nothing below it is none, and a body does not begin with it."""
    title, text = title.strip(), text.strip()
    body = text.removeprefix(title).lstrip(" \t\r\n.:-\u2013\u2014") if title else text
    return (title, body) if title and body else ("", text or title)


def split_sentences(text: str, language: str = "en") -> Iterator[str]:
    """The sentences of a text, none blank; a very long one is cut first, where a sentence or a word seems to end."""
    from sentencex import segment

    for piece in _pieces(text):
        yield from filter(None, map(str.strip, segment(language, piece)))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE:
        window = text[start : start + _PIECE]
        end = max(window.rfind(mark, _PIECE // 2) for mark in (". ", "! ", "? ", "\n", "。"))
        size = end + 1 or window.rfind(" ", _PIECE // 2) + 1 or _PIECE  # where there is none, rfind gives -1
        yield window[:size]
        start += size
    yield text[start:]
