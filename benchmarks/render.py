"""Write results.md, gpu.md and profile.md from what the benchmarks kept; no number in them is typed by hand.

python -m benchmarks.render [--plots]

Every script writes its own section; this is the order of them. With --plots the pictures are drawn, too, which needs
matplotlib.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks import (
    ablations,
    added_changes,
    batch_memory,
    both,
    encode_speed,
    gains,
    gpu,
    guard,
    hybrid,
    lexical,
    mteb_tasks,
    pretraining,
    quickstart,
    scale,
    scaling,
    search,
    search_step,
    search_tuning,
    step_profile,
    structures,
    sts,
    tuning_speed,
    verdict,
    whitening,
)  # fmt: skip
from benchmarks.common import RESULTS, read
from benchmarks.paper import shared as paper

HEAD = """# Results

Written by `python -m benchmarks.render` from `benchmarks/results/*.json`. Each section names the command, the machine
and the versions that gave its numbers. `DATA` is a folder of labelled sets (STS-Benchmark as tab-separated files, and
the 10,000 sentences that the Mirror-BERT paper tunes on); it is not part of this repository.
"""
# Sections in their order, and the results that each of them shows.
SECTIONS = [
    (gains.section, "sts", "search_tuning"),
    (hybrid.section, "hybrid"),
    (both.section, "both"),
    (lexical.section, "lexical"),
    (sts.section, "sts"),
    (search_tuning.section, "search_tuning"),
    (added_changes.section, "added_changes"),
    (whitening.section, "whitening"),
    (quickstart.section, "quickstart"),
    (search_step.section, "search_step"),
    (tuning_speed.section, "tuning_speed_6x256"),
    (tuning_speed.section, "tuning_speed_12x768"),
    (batch_memory.section, "batch_memory"),
    (ablations.section, "ablations"),
    (pretraining.section, "pretraining"),
    (encode_speed.section, "encode_speed"),
    (search.section, "search"),
    (verdict.section, "verdict"),
    (structures.section, "structures"),
    (mteb_tasks.section, "mteb_tasks"),
    (guard.section, "guard"),
    *((partial(scaling.section, what), f"scaling_{what}") for what in scaling.SIZES),
    (scale.section, "scale"),
]
PAGES = {"gpu": gpu.section, "profile": step_profile.section}


def results() -> str:
    parts = [HEAD]
    for section, *names in SECTIONS:
        paths = [RESULTS / f"{name}.json" for name in names]
        if all(path.exists() for path in paths):
            parts.append(section(*map(read, paths)))
        else:
            print(f"left out, not measured yet: {', '.join(names)}")
    if papers := sorted(RESULTS.glob("paper/*.json")):
        parts += [paper.HEAD, *(paper.section(read(path)) for path in papers)]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", action="store_true", help="draw the pictures, too; needs matplotlib")
    args = parser.parse_args()
    RESULTS.with_name("results.md").write_text(results(), encoding="utf-8")
    for name, page in PAGES.items():
        path = RESULTS / f"{name}.json"
        RESULTS.with_name(f"{name}.md").write_text(page(read(path) if path.exists() else None), encoding="utf-8")
    if args.plots:
        search.plot(read(RESULTS / "search.json"))
        scaling.plot()


if __name__ == "__main__":
    main()
