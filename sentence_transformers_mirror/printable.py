"""What comes from data, as it may be shown: an escape sequence in it could command a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """A text with a space for each character that cannot be printed, line ends among them."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def quoted(value: object, most: int = 60) -> str:
    """A value as Python writes it; of a long one the beginning, a string cut before it is put into quotes."""
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[:most]}...")
    shown = " ".join(repr(value).split())  # arrays take several lines
    return shown if len(shown) <= most else f"{shown[:most]}..."
