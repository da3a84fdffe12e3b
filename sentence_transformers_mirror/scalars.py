"""Numbers of other makers, as those of Python."""

from __future__ import annotations

from typing import Any

from sentence_transformers_mirror.printable import quoted


def plain(value: Any) -> Any:
    """The bool, int, float or str that a scalar of numpy or torch holds; anything else as it is."""
    if isinstance(value, (str, bool, int, float)) and type(value).__module__ == "builtins":
        return value
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """An argument that counts, as an int; a TypeError if it is none, a ValueError if it is below the least."""
    found = plain(value)
    if not isinstance(found, int) or isinstance(found, bool):
        raise TypeError(f"{name} must be a whole number, not {quoted(value)}.")
    if least is not None and found < least:
        raise ValueError(f"{name} must be at least {least}, not {found}.")
    return found
