"""What is asked of the page, which is what its address says: all that one can click on it is a link to another."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, replace
from typing import Any, get_args
from urllib.parse import parse_qs, urlencode

from sentence_transformers_mirror.search.fusion import Mode

MOST = 100  # hits
LONGEST = 2_000  # characters of a query or a filter: an address has to hold it
_TEXT = 300  # characters of a text that is itself a query


def parse_filter(text: str) -> dict[str, Any] | None:
    """A filter as a person types it: nothing, or a JSON object such as ``{"language": ["en", "de"]}``."""
    if not text.strip():
        return None
    try:
        where = json.loads(text)
        json.dumps(where, ensure_ascii=False).encode()  # half a character has no place in an address
    except (ValueError, RecursionError):
        where = None
    if not isinstance(where, dict):
        raise ValueError('A filter is a JSON object such as {"language": "en"}.')
    return where


@dataclass(frozen=True)
class Asked:
    """A search."""

    query: str = ""  # blank shows what can be asked
    top_k: int = 10  # 1 to 100
    where: str = ""  # as for `parse_filter`
    mode: Mode = "meaning"

    @classmethod
    def by(cls, link: str) -> Asked:
        """What a link asks; what it says that means nothing is passed over."""
        said = {key: values[-1] for key, values in parse_qs(link.removeprefix("?")).items()}
        top_k, mode = said.get("k", ""), said.get("mode")
        return cls(
            said.get("q", ""),
            min(max(int(top_k), 1), MOST) if top_k.isascii() and top_k.isdigit() and len(top_k) < 9 else cls.top_k,
            said.get("where", ""),
            next((known for known in get_args(Mode) if known == mode), cls.mode),
        )

    @property
    def link(self) -> str:
        """The query part of the address that asks this."""
        told = zip(("q", "k", "where", "mode"), astuple(self), astuple(Asked()), strict=True)
        return "?" + urlencode({key: value for key, value, usual in told if value != usual}, errors="replace")

    @property
    def conditions(self) -> dict[str, Any]:
        """The filter; none where it is not valid."""
        try:
            return parse_filter(self.where) or {}
        except ValueError:
            return {}

    def like(self, text: str) -> Asked:
        """The same, for a text."""
        return replace(self, query=text.strip()[:_TEXT])

    def only(self, key: str, value: Any) -> Asked:
        """The same, among the texts that have a value."""
        return self._where({**self.conditions, key: value})

    def whatever(self, key: str) -> Asked:
        """The same without a condition."""
        return self._where({name: value for name, value in self.conditions.items() if name != key})

    def _where(self, conditions: dict[str, Any]) -> Asked:
        return replace(self, where=json.dumps(conditions, ensure_ascii=False) if conditions else "")
