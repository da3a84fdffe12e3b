"""What comes from data, as it may be shown: an escape sequence in it could command a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """A text with a space for each character that cannot be printed, line ends among them."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
