"""Markdown of tables of results, and of what gave them."""

from __future__ import annotations

import statistics

from benchmarks.common import embedded_version


def table(rows: list[dict[str, object]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def source(environment: dict[str, str], of_the_embedded: bool = False) -> str:
    """What gave the numbers, and a warning if they are those of embedded weights that were replaced since."""
    versions = ", ".join(f"{name} {environment[name]}" for name in list(environment)[3:])
    old = of_the_embedded and environment.get("embedded model") != embedded_version()
    warning = "**Measured with the embedded model of before, and not yet with the one of today.** " if old else ""
    return f"{warning}`{environment['command']}` on {environment['cpu']}, GPU: {environment['gpu']}; {versions}.\n"


def score(seeds: list[float], digits: int = 2) -> str:
    """Mean over seeds, largest minus smallest in brackets."""
    if not seeds:
        return ""
    spread = f" ({max(seeds) - min(seeds):.{digits}f})" if len(seeds) > 1 else ""
    return f"{statistics.mean(seeds):.{digits}f}{spread}"


def by_seed(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """The runs of each name that ends in a seed, together."""
    found: dict[str, list[dict]] = {}
    for name, one in runs.items():
        head, slash, seed = name.rpartition("/")
        found.setdefault(head if slash and seed.isdigit() else name, []).append(one)
    return found
