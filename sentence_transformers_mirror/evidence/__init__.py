"""Evidence: is a model better, with labels and without?"""

from __future__ import annotations

from importlib import import_module

_HOMES = {"Evidence": "verdict", "Parts": "parts", "compare": "verdict", "split_parts": "parts"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
