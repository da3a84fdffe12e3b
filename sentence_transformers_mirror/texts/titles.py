"""Titles of documents."""

from __future__ import annotations

TITLES = "title and body"  # a structure that can be taught or asked, see `evidence.parts.Parts`


def split_title(title: str, text: str) -> tuple[str, str]:
    """Title and body: a title with nothing below it is none, and a body does not begin with it."""
    title, text = title.strip(), text.strip()
    body = text.removeprefix(title).lstrip(" \t\r\n.:-\u2013\u2014") if title else text
    return (title, body) if title and body else ("", text or title)
