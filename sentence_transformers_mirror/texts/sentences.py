"""Sentences of a text, in time that grows with its length."""

from __future__ import annotations

from collections.abc import Iterator

# sentencex takes time that grows with the square of nested brackets; no sentence is nearly as long as this.
_PIECE = 5_000  # characters


def split_sentences(text: str, language: str = "en") -> Iterator[str]:
    """The sentences of a text, none of them blank.

    Args:
        text: A text of any length; a very long one is cut where a sentence or a word seems to end.
        language: An ISO 639-1 code.
    """
    from sentencex import segment

    for piece in _pieces(text):
        yield from filter(None, map(str.strip, segment(language, piece)))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _PIECE:
        window = text[start : start + _PIECE]
        ends = [window.rfind(end, _PIECE // 2) for end in (". ", "! ", "? ", "\n", "。")]
        end = max(ends)
        if end < 0:
            end = window.rfind(" ", _PIECE // 2)
        end = end + 1 if end >= 0 else _PIECE
        yield window[:end]
        start += end
    yield text[start:]
