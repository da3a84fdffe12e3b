"""Write results.md from the JSON that the benchmarks kept; no number in it is typed by hand.

python -m benchmarks.render [--plots]

With --plots it draws the pictures, too, which needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

from benchmarks.common import RESULTS, embedded_version

HEAD = """# Results

Written by `python -m benchmarks.render` from `benchmarks/results/*.json`. Each section names the command, the machine
and the versions that gave its numbers. `DATA` is a folder of labelled sets (STS-Benchmark as tab-separated files, and
the 10,000 sentences that the Mirror-BERT paper tunes on); it is not part of this repository.
"""


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


def by_seed(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """The runs of each name that ends in a seed, together."""
    found: dict[str, list[dict]] = {}
    for name, one in runs.items():
        head, slash, seed = name.rpartition("/")
        found.setdefault(head if slash and seed.isdigit() else name, []).append(one)
    return found


def similarity_row(name: str, runs: list[dict[str, float]]) -> dict[str, object]:
    sets = list(runs[0])
    digits = 1
    means = [statistics.mean(one.values()) for one in runs]
    return {"": name, **{one: score([run[one] for run in runs], digits) for one in sets}, "mean": score(means, digits)}


def sts(result: dict) -> str:
    rows = []
    for name, runs in by_seed(result["runs"]).items():
        recipe, _, rate = name.partition("/")
        label = f"{recipe} pooling" if "untuned" in name else f"`{recipe}`{f', learning rate {rate}' if rate else ''}"
        rows.append(similarity_row(label, [one["scores"] for one in runs]))
    tuned = [one for one in result["runs"].values() if "steps" in one]
    size = (
        f"{tuned[0]['texts']:,} distinct sentences, {tuned[0]['steps']} steps, {tuned[0]['precision']}, mean pooling."
    )
    return (
        "## Similarity before and after\n\nSpearman x 100 of cosine similarity, the embedded model tuned on the "
        "paper's 10,000 sentences (223 are in STS-B test, as in the paper; no labels are used). They come from its "
        "training part, and STS12 to 15 from the same sources: these sets are of the domain of the tuning texts. "
        "SICK-R (captions), BIOSSES (biomedicine) and Multi-SimLex (words) are not. Means over seeds, largest minus "
        f"smallest in brackets.\n\n{table(rows)}\n{size}\n"
    )


def search_tuning(result: dict) -> str:
    parts = [
        "## Tuning for search",
        "",
        "The recipe `search`, one thing changed at a time. Means over seeds, largest minus smallest in brackets; a "
        "difference smaller than these is none.",
    ]

    def each(runs: list[dict[str, float]], name: str) -> str:
        return score([one[name] for one in runs if name in one], 1)

    models: dict[str, dict[str, dict[str, list[dict]]]] = {}
    for name, runs in by_seed(result["runs"]).items():
        model, domain, variant = name.split("/", 2)
        models.setdefault(model, {}).setdefault(domain, {})[variant] = runs
    for model, domains in models.items():
        if reported := domains.pop("aeronautics", None):
            rows = []
            for variant, runs in reported.items():
                for what in ("tuned", "averaged"):
                    if found := [one[what] for one in runs if what in one]:
                        label = variant if what == "tuned" else f"{variant}, averaged"
                        sets = [{key: one[key] for key in one if key != "nDCG@10"} for one in found]
                        all_sets = [statistics.mean(one.values()) for one in sets if len(one) > 1]
                        rows.append(
                            {
                                "": label,
                                "Cranfield nDCG@10": score([one["nDCG@10"] for one in found], 1),
                                **{name: each(sets, name) for name in ("STS-B", "SICK-R dev", "BIOSSES")},
                                "mean of all similarity": score(all_sets, 1),
                                "seeds": len(found),
                            }
                        )
            parts += [
                "",
                f"### {model}: Cranfield, tuned on its own 1,400 abstracts and titles",
                "",
                f"Nothing was chosen by these numbers. BM25 has {result['BM25']:.1f}. Averaged: the mean of tuned and "
                "original weights. Similarity: all sets of the section above.",
                "",
                table(rows),
            ]
        if domains:
            variants = dict.fromkeys(variant for found in domains.values() for variant in found)
            first = next(variant for variant in variants if variant != "untuned")

            def ranks(domain: str, variant: str, domains: dict = domains) -> list[float]:
                return [one["tuned"][domain] for one in domains[domain].get(variant, [])]

            rows = []
            for variant in variants:
                row: dict[str, object] = {"": variant}
                changes = []
                for domain in domains:
                    row[domain] = score(ranks(domain, variant), 1)
                    changes.append(statistics.mean(ranks(domain, variant)) - statistics.mean(ranks(domain, first)))
                row["change"] = f"{statistics.mean(changes):+.1f}"
                similarity = [one["tuned"]["STS-B dev"] for runs in domains.values() for one in runs[variant]]
                row["STS-B dev"] = score(similarity, 1)
                row["seeds"] = len(next(iter(domains.values()))[variant])
                rows.append(row)
            parts += [
                "",
                f"### {model}: docstrings of libraries",
                "",
                "A first sentence of a module that was not tuned on asks for the rest: mean reciprocal rank x 100. "
                "The recipe was chosen by these and by STS-B dev.",
                "",
                table(rows),
            ]
    return "\n".join(parts)


YEARS = ["STS12", "STS13", "STS14", "STS15"]
OF_WHAT = {
    "the recipe": "`search`, on Cranfield's 1,400 abstracts",
    "with 1,400 sentences": "`search`, on these and 1,400 of the sentences",
    "then `sentence`": "`search` on the abstracts, then `sentence`",
    "0.7 of it and of `sentence`": "0.7 of what `search` changes and 0.7 of what `sentence` changes, added",
}


def gains(similarity: dict, search: dict) -> str:
    """The table that README shows, of two results."""

    def row(name: str, scores: list[dict[str, float]], ranked: bool, seeds: int | str) -> dict[str, object]:
        def mean(sets: list[str]) -> str:
            if any(one not in scores[0] for one in sets):
                return ""
            return f"{statistics.mean(statistics.mean(run[one] for one in sets) for run in scores):.1f}"

        every = [one for one in scores[0] if one != "nDCG@10"]
        names = {"STS-B test": ["STS-B"], "STS12 to 15": YEARS, "SICK-R dev": ["SICK-R dev"], "BIOSSES": ["BIOSSES"]}
        names |= {"Multi-SimLex": ["Multi-SimLex ENG"], "mean of all sets": every if len(every) > 1 else ["none"]}
        return {
            "": name,
            "Cranfield nDCG@10": mean(["nDCG@10"]) if ranked else "",
            **{title: mean(sets) for title, sets in names.items()},
            "seeds": seeds,
        }

    found = by_seed(search["runs"])
    rows = [row("as it is", [one["tuned"] for one in found["embedded/aeronautics/untuned"]], True, "")]
    for name, runs in by_seed(similarity["runs"]).items():
        if "untuned" not in name:
            label = f"`{name.rstrip('/')}`, on 10,000 sentences of STS-B's training part"
            rows.append(row(label, [one["scores"] for one in runs], False, len(runs)))
    for variant, label in OF_WHAT.items():
        for what in ("tuned", "averaged") if variant == "the recipe" else ("tuned",):
            runs = [one[what] for one in found.get(f"embedded/aeronautics/{variant}", []) if what in one]
            if runs:
                words = "the same, averaged with the original weights" if what == "averaged" else label
                rows.append(row(words, runs, True, len(runs)))
    rows.append({**dict.fromkeys(rows[0], ""), "": "words alone (BM25)", "Cranfield nDCG@10": f"{search['BM25']:.1f}"})
    return table(rows)


def speed(result: dict) -> str:
    parts = [
        f"## Time per training step, {result['shape']} (layers x width)",
        "",
        f"Batch of {result['batch size']}; all contestants step on the same batches in turn, in one process; medians. "
        "A step is everything from strings to updated weights. The floor is the real tokens of both views times the "
        "time per token of a full rectangle, forward and backward.",
    ]
    if not result["native bf16"]:
        parts.append(
            "\nThis machine has no bfloat16 in hardware, so only float32 was measured; emulated, it would be slower."
        )
    parts += [
        "",
        f"{result['real tokens']:,.0f} real tokens a step.",
        "",
        table(result["rows"]),
        'Where a step of ours goes, in milliseconds (masking is inside "views, forward and loss", too):\n',
        table([{"": name, **profile} for name, profile in result["profile, ms"].items()]),
    ]
    return "\n".join(parts)


ABLATED = {"sentence": ("STS-B dev", "STS12-15, STS-B test"), "word": ("SimLex-999", "Multi-SimLex")}


def ablations(result: dict) -> str:
    parts = [
        "## What each part is worth",
        "",
        "The embedded model, one change to a recipe at a time: `sentence` on the paper's 10,000 sentences and `word` "
        "on its 10,000 words, both at the learning rate of small models, 1e-4. Spearman x 100, mean of three seeds, "
        "spread (largest minus smallest) in brackets. Choices are made on the first column of scores. A change "
        "smaller than the spreads is none.",
    ]
    for study, variants in result.items():
        kind, title = study.split(": ", 1)
        if title == "the recipe":
            continue
        recipe = result[f"{kind}: the recipe"]["the recipe"]
        # What is not measured with all seeds yet is left out.
        variants = {name: row for name, row in variants.items() if len(row["dev"]) == len(recipe["dev"])}
        if not variants:
            continue
        rows = [
            {
                title: name,
                ABLATED[kind][0]: score(row["dev"]),
                "change": f"{statistics.mean(row['dev']) - statistics.mean(recipe['dev']):+.2f}",
                ABLATED[kind][1]: score(row["test"]),
                "change ": f"{statistics.mean(row['test']) - statistics.mean(recipe['test']):+.2f}",
            }
            for name, row in {"the recipe": recipe, **variants}.items()
        ]
        parts += ["", f"### {kind.capitalize()}s: {title}", "", table(rows)]
    return "\n".join(parts)


def pretraining(result: dict) -> str:
    def each(runs: dict[str, dict[str, float]], what: str) -> list[float]:
        return [run[what] for run in runs.values()]

    loss, similarity = "nats a character", "STS-B dev"
    first = next(iter(result["runs"].values()))
    rows = [
        {
            "changed": name,
            "million parameters": f"{statistics.mean(each(runs, 'parameters')) / 1e6:.1f}",
            "steps": f"{statistics.mean(each(runs, 'steps')):,.0f}",
            loss: score(each(runs, loss), 3),
            "change": f"{statistics.mean(each(runs, loss)) - statistics.mean(each(first, loss)):+.3f}",
            f"{similarity}, tuned": score(each(runs, similarity)),
            "change ": f"{statistics.mean(each(runs, similarity)) - statistics.mean(each(first, similarity)):+.2f}",
            "seeds": len(runs),
        }
        for name, runs in result["runs"].items()
    ]
    return (
        "## What a small base model should be like\n\n"
        f"`examples/pretrain` from scratch in steps of 16 rows, {result['minutes']:g} minutes a run on a part of this "
        "machine, one thing changed at a time; what is not here was not run. Parameters are those of the "
        "encoder. Loss on held-out text (less is better), by which vocabularies compare roughly; then Spearman x 100 "
        "after `sentence-small` on the paper's 10,000 sentences. Means over seeds, largest minus smallest in "
        "brackets. It tells what learns fast, which need not be what is best after hours; similarity is still below "
        f"that of weights that are nearly random (examples/pretrain/README.md).\n\n{table(rows)}"
    )


def batch_memory(result: dict) -> str:
    return (
        "## Memory of large batches\n\nOne step of `CachedMirrorLoss` on the embedded model, disease names of at most "
        f"seven words, mini-batches of {result['mini-batch size']} rows.\n\n{table(result['rows'])}"
    )


def score(seeds: list[float], digits: int = 2) -> str:
    if not seeds:
        return ""
    spread = f" ({max(seeds) - min(seeds):.{digits}f})" if len(seeds) > 1 else ""
    return f"{statistics.mean(seeds):.{digits}f}{spread}"


def search(result: dict) -> str:
    parts = [
        "## Searching",
        "",
        "Milliseconds a call, medians, ten hits a query, 384 dimensions. Ours and FAISS answer the same queries in "
        "turn; FAISS is the structure that the index chose, called directly, and gives row numbers without texts. "
        "What is on top is that of a search before a text is looked at; texts are read when they are.",
        "",
    ]
    rows = []
    for index in result["indexes"]:
        for batch in index["batches"]:
            extra = batch["ours, not looked at"] - batch["FAISS"]
            rows.append(
                {
                    "rows": f"{index['rows']:,}",
                    "kind": f"{index['kind']} (asked: {index['asked']})",
                    "batch": batch["batch"],
                    "ours, texts read": f"{1e3 * batch['ours']:.3f}",
                    "ours, not looked at": f"{1e3 * batch['ours, not looked at']:.3f}",
                    "FAISS": f"{1e3 * batch['FAISS']:.3f}",
                    "on top": f"{1e6 * extra:+.0f} us, {extra / batch['FAISS']:+.1%}",
                    "recall@10": f"{index['recall@10']:.3f}",
                }
            )
    parts.append(table(rows))
    rows = [
        {
            "rows": f"{index['rows']:,}",
            "kind": index["kind"],
            "build, s": f"{index['build']:.1f}",
            "open, ms": f"{1e3 * index['open']:.1f}",
            "first search, ms": f"{1e3 * index['first search']:.1f}",
            "peak memory beside the vectors, MiB": f"{index['peak MiB over the vectors given']:,.0f}",
            "on disk, MiB": f"{index['disk MiB']:,.0f}",
        }
        for index in result["indexes"]
    ]
    parts.append(table(rows))
    rows = [
        {"rows": f"{one['rows']:,}", **{k: f"{1e3 * v:.3f}" if k != "batch" else v for k, v in batch.items()}}
        for one in result["others"]
        for batch in one["batches"]
    ]
    parts.append("![Query time, build time and memory by number of rows](results/search.svg)\n")
    parts.append("What people use today, exact, milliseconds a call:\n\n" + table(rows))
    return "\n".join(parts)


def encode_speed(result: dict) -> str:
    rows = [
        {
            "model": row["model"],
            "what": row["what"],
            "texts": f"{row['texts']:,}",
            "ours, s": f"{row['ours']:.4g}",
            "encode, s": f"{row['host']:.4g}",
            "encode / ours": f"{row['ratio']:.2f}",
            "largest difference": f"{row['difference']:.1e}",
        }
        for row in result["rows"]
    ]
    return (
        "## Embedding\n\n`SearchIndex.build` (embeds, checks, stores) beside the host's `encode` with its defaults, "
        "and one query; in turn, float32, medians of rounds. The difference is that of a coordinate of unit vectors: "
        f"the order of additions.\n\n{table(rows)}"
    )


def verdict(result: dict) -> str:
    return (
        "## Is the verdict without labels right?\n\n"
        "Tuning runs that help, do nothing and destroy; truth is the change of a score with labels that the verdict "
        "does not see. The least gain and loss that count are chosen on the other domains. Right: the labels changed "
        "in the direction that was said. Runs that differ: by more than two points on the labels. In aeronautics the "
        "labels are of the texts that the verdict reads; in the other two domains it reads paragraphs of general "
        f"English, and the labels are of other texts.\n\n{table(result['summary'])}\nAll runs, changes in points on "
        "the labels:\n\n"
        + table([run_row(row) for row in result["runs"]])
        + "\n### What a guard leaves\n\nChange of the label score of the weights that the model ends with.\n\n"
        + table(result["guard"])
        + "\nCommands that made the runs: "
        + "; ".join(f"`{command}`" for command in result["commands"])
        + ".\n"
    )


def run_row(row: dict) -> dict[str, object]:
    evidence, average = row["evidence"], row["average"]

    def rank(one: dict) -> str:
        return f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"

    return {
        **{key: row[key] for key in ("domain", "model", "recipe", "learning_rate", "seed")},
        "labels": f"{row['truth']:+.2f}",
        "mean reciprocal rank": rank(evidence),
        "labels, averaged": f"{average['truth']:+.2f}",
        "mean reciprocal rank, averaged": rank(average),
    }


SCALED = {
    "tune": ("texts", "`mirror_tune` from a file, one epoch, batches of 200"),
    "tune_fp32": ("texts", "the same in float32, where oneDNN does not keep something for each new size of a group"),
    "batch": ("texts in the batch", "one step of `CachedMirrorLoss`; its similarities grow with the square"),
    "index": ("texts", "`SearchIndex.build` from a file, exact"),
    "search": ("texts", "one query of that index, the texts of ten hits read"),
}
SCALING = """## How cost grows

A random model of one layer of width 64, so that what is not the model shows. Memory is on top of what the process had
after its imports. Exponents are slopes between the two largest sizes on logarithmic axes: 1 is in proportion.

![Time and memory by size](results/scaling.svg)
"""


def scaling(what: str, result: dict) -> str:
    size, words = SCALED[what]
    rows = [
        {
            size: f"{point['size']:,}",
            "seconds": f"{point['seconds']:.4g}",
            "peak memory, MB": "" if point["peak, MB"] is None else f"{point['peak, MB']:,.0f}",
            "texts on disk, MB": f"{point['texts on disk, MB']:.2f}",
        }
        for point in result["points"]
    ]
    slopes = ", ".join(f"{key.split(',')[0]} {value:.2f}" for key, value in result["exponents"].items())
    part = f"{words[0].upper()}{words[1:]}. Exponents: {slopes or 'not measured'}.\n\n{table(rows)}"
    return f"{SCALING}\n{part}" if what == next(iter(SCALED)) else part


def plot_scaling() -> None:
    """Time and memory against size, all axes logarithmic, with the fitted slopes in the legend."""
    import matplotlib
    from matplotlib.figure import Figure

    paths = {what: RESULTS / f"scaling_{what}.json" for what in SCALED}
    result = {what: json.loads(path.read_text("utf-8"))["result"] for what, path in paths.items() if path.exists()}
    matplotlib.rcParams["svg.hashsalt"] = "scaling"  # the same picture from the same numbers
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, words in zip(figure.subplots(1, 2), ("seconds", "peak, MB"), ("s", "MB"), strict=True):
        for what, one in result.items():
            points = [point for point in one["points"] if point[key] is not None]
            if points:
                slope = one["exponents"].get(key)
                label = what if slope is None else f"{what}: exponent {slope:.2f}"
                axes.plot([point["size"] for point in points], [point[key] for point in points], "o-", label=label)
        axes.set(xscale="log", yscale="log", xlabel="texts", title=words)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "scaling.svg", metadata={"Date": None})


def plot_search(result: dict) -> None:
    """Query time, build time and memory against the number of rows, both axes logarithmic."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "search"  # the same picture from the same numbers
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    query, build, memory = figure.subplots(1, 3)
    kinds = dict.fromkeys(index["asked"] for index in result["indexes"])
    for number, asked in enumerate(kinds):
        mine = [index for index in result["indexes"] if index["asked"] == asked]
        rows = [index["rows"] for index in mine]
        single = [next(batch for batch in index["batches"] if batch["batch"] == 1) for index in mine]
        query.plot(rows, [1e3 * one["ours"] for one in single], f"C{number}o-", label=f"ours, {asked}")
        query.plot(rows, [1e3 * one["FAISS"] for one in single], f"C{number}x--", label=f"FAISS under it, {asked}")
        build.plot(rows, [index["build"] for index in mine], f"C{number}o-", label=asked)
        memory.plot(rows, [index["disk MiB"] for index in mine], f"C{number}o-", label=f"{asked}, on disk")
        beside = [max(index["peak MiB over the vectors given"], 0.1) for index in mine]
        memory.plot(rows, beside, f"C{number}x--", label=f"{asked}, memory beside the vectors")
    rows = [one["rows"] for one in result["others"]]
    for number, name in enumerate(("semantic_search_faiss", "datasets"), start=len(kinds)):
        single = [next(batch for batch in one["batches"] if batch["batch"] == 1) for one in result["others"]]
        query.plot(rows, [1e3 * one[name] for one in single], f"C{number}s:", label=name)
    for axes, words in ((query, "ms for one query"), (build, "s to build"), (memory, "MiB")):
        axes.set(xscale="log", yscale="log", xlabel="rows", title=words)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "search.svg", metadata={"Date": None})


def hybrid(result: dict) -> str:
    rows = []
    for name, found in result["searches"].items():
        model, asked = name.split("/")
        one = {
            mode: f"{scores['nDCG@10']:.1f} ({scores['right in the first 3']:.0f})" for mode, scores in found.items()
        }
        rows.append({"model": model, "asked": asked, **one})
    rows.sort(key=lambda row: (row["asked"] != "Cranfield", row["model"]))
    chosen = [
        {
            "model": name.split("/")[0],
            "scores added by": name.split("/")[1],
            "weight of meaning": one["weight"],
            "nDCG@10": f"{one['nDCG@10']:.1f}",
            "weights with one left out": ", ".join(
                f"{left['weight']:g} ({key})" for key, left in one["left out"].items()
            ),
            "nDCG@10 of it": f"{statistics.mean(left['nDCG@10'] for left in one['left out'].values()):.1f}",
        }
        for name, one in result["chosen"].items()
    ]
    curves = [
        {
            "model": name.split("/")[0],
            "asked": name.split("/")[1],
            **{f"{float(weight):g}": f"{score:.1f}" for weight, score in one["cosine from the mean"].items()},
        }
        for name, one in result["runs"].items()
    ]
    as_they_are = next(one["words as they are"] for name, one in result["runs"].items() if name.endswith("/Cranfield"))
    return (
        "## Words and meaning together\n\nnDCG@10 x 100 through `SearchIndex` with the default weight; in brackets, "
        "how many of 100 queries have a right text in the first three hits. Nothing was chosen by Cranfield, where "
        f"words that are not stemmed have {as_they_are:.1f}.\n\n{table(rows)}\nThe default, 0.3, is what is "
        "best for the embedded model on the three others; scores are BM25 over its best, and the cosine from what is "
        "named to its best.\n\n"
        f"{table(chosen)}\nnDCG@10 by weight of meaning, with the cosine from its mean:\n\n"
        f"{table(curves)}"
    )


def lexical(result: dict) -> str:
    rows = [{"": name, **found} for name, found in result["libraries"].items()]
    return f"## What a search by words stands on\n\n{result['texts']:,} short texts, one thread.\n\n{table(rows)}"


def both(result: dict) -> str:
    times = [{"": name, "milliseconds a query": found} for name, found in result["milliseconds a query"].items()]
    facts = "; ".join(
        f"{name}: {found}" for name, found in result.items() if not isinstance(found, dict) and name != "texts"
    )
    ratios = ", ".join(f"{ratio} ({name})" for name, ratio in result["both / (FAISS + BM25)"].items())
    return (
        f"## What a search by both costs\n\n{result['texts']:,} short texts, one thread, one query at a time, without "
        f"embedding it. {facts}.\n\n{table(times)}\n`both` beside FAISS and BM25 called directly, median of the "
        f"ratios within a turn, by who counts the words: {ratios}.\n"
    )


SECTIONS = {
    "hybrid": hybrid,
    "both": both,
    "lexical": lexical,
    "sts": sts,
    "search_tuning": search_tuning,
    "search_step": lambda result: (
        "## What a step of the recipe `search` costs\n\nBeside one of `sentence` of as many real tokens, in turn, on "
        "the embedded model, from strings to updated weights, views included; medians. Documents are Cranfield's, "
        f"{result['documents a step']} a step.\n\n{table([result])}"
    ),
    "tuning_speed_6x256": speed,
    "tuning_speed_12x768": speed,
    "batch_memory": batch_memory,
    "ablations": ablations,
    "pretraining": pretraining,
    "encode_speed": encode_speed,
    "search": search,
    "verdict": verdict,
    "guard": lambda rows: (
        "## What the guard costs\n\nThe embedded model, recipe `sentence`, one epoch. Seconds are those of the "
        f"training loop and of measuring before, twice on the way and once after.\n\n{table(rows)}"
    ),
    **{f"scaling_{what}": partial(scaling, what) for what in SCALED},
}
# Quality; the rest is time, or of random weights.
OF_THE_EMBEDDED = {"sts", "search_tuning", "hybrid", "ablations", "verdict"}


def paper(result: dict) -> str:
    lines = [
        {
            "": one["what"],
            "paper, BERT-base": "" if one["paper"] is None else f"{one['paper']:.1f}",
            "ours": f"{statistics.mean(one['ours']):.1f}" if one["ours"] else "absent",
            "spread": f"{max(one['ours']) - min(one['ours']):.1f}" if len(one["ours"]) > 1 else "",
        }
        for one in result["lines"]
    ]
    effects = [
        {
            "change": one["change"],
            "paper": f"{one['paper']:+.1f}",
            "ours": f"{one['ours']:+.1f}",
            "reproduces": one["reproduces"],
        }
        for one in result["effects"]
    ]
    words = (
        f"Model: {result['model']}, {result['pooling']} pooling after tuning, learning rate "
        f"{result['learning rate']:g}, at most {result['texts']:,} texts, seeds "
        f"{', '.join(map(str, result['seeds']))}. {result['words']}"
    )
    return "\n".join([f"### {result['title']}", "", words, "", table(lines), *([table(effects)] if effects else [])])


def profile(kept: dict | None) -> str:
    head = "# Where a step goes\n\nWritten by `python -m benchmarks.render` from `benchmarks/results/profile.json`.\n"
    if kept is None:
        return f"{head}\nNot measured yet: `python -m benchmarks.step_profile --data DATA`.\n"
    rows = [
        {"ms a step": part, **{one["shape"]: f"{one['parts, ms'][part]:.1f}" for one in kept["result"]}}
        for part in kept["result"][0]["parts, ms"]
    ]
    facts = ["whole step, ms", "arithmetic floor, ms", "bytes floor, ms", "real tokens", "precision"]
    facts += ["matrix rate, 10^9 operations a second", "bandwidth, GB a second"]
    rows += [{"ms a step": fact, **{one["shape"]: one[fact] for one in kept["result"]}} for fact in facts]
    words = (
        "Means over steps inside the real Trainer, batch 200, random models of layers x width. The arithmetic floor "
        "is that of the matrices of the layers over the rate of a matrix product; the bytes floor is what has to be "
        "read and written once over the bandwidth of a copy. Dropout, attention, norms and activation functions are "
        "in neither.\n"
    )
    return "\n".join([head, source(kept["environment"]), words, table(rows)])


def gpu(kept: dict | None) -> str:
    head = "# On a GPU\n\nWritten by `python -m benchmarks.render` from `benchmarks/results/gpu.json`.\n"
    if kept is None:
        return f"{head}\nNot measured yet: `python -m benchmarks.gpu --data DATA` on a machine with a GPU.\n"
    parts = [head]
    for part, one in kept["result"].items():
        title, text = GPU_PARTS[part](one["result"])
        shape = f"A model of {one['shape']} (layers x width) with random weights, bfloat16."
        parts.append(f"## {title}\n\n{shape} {text}\n{source(one['environment'])}")
    return "\n".join(parts)


def gpu_epoch(result: dict) -> tuple[str, str]:
    shares = result["share of the time in which the GPU computes"]
    return "One epoch", (
        f"{result['texts']:,} sentences in {result['steps']} steps, from strings to updated weights, after a warm-up "
        "step; medians over rounds. Groups: forward passes that a batch is cut into.\n\n"
        f"{table(result['rows'])}\n\nAll of `mirror_tune`, the host's Trainer included: "
        f"{result['mirror_tune, seconds']} s. Share of the time in which the GPU computes, and does not wait for the "
        f"processor: {', '.join(f'{name} {share}' for name, share in shares.items())}. {result.get('remark', '')}\n"
    )


def gpu_embedding(rates: dict) -> tuple[str, str]:
    return "Embedding", (
        f"{rates['ours']:,} texts a second, beside {rates['host']:,} of the host's `encode` with its defaults: "
        f"{rates['ours'] / rates['host']:.2f} times as many.\n"
    )


GPU_PARTS = {
    "epoch": gpu_epoch,
    "embedding": gpu_embedding,
    "large": lambda rows: ("Large batches", f"One step of `CachedMirrorLoss`.\n\n{table(rows)}\n"),
    "documents": lambda rows: (
        "Tuning for search",
        "Steps of the recipe `search` by `mirror_tune`, beside the same steps on batches whose views were made and "
        f"tokenized before.\n\n{table(rows)}\n",
    ),
}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--plots", action="store_true", help="draw the pictures, too; needs matplotlib")
    args = args.parse_args()
    parts = [HEAD]
    both = [RESULTS / f"{name}.json" for name in ("sts", "search_tuning")]
    if all(path.exists() for path in both):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in both]
        parts.append(
            "## What tuning gains\n\nThe embedded model: nDCG@10 x 100 on Cranfield, and Spearman x 100 of cosine "
            "similarity; means over seeds. Commands and spreads stand in the next two sections.\n\n"
            + gains(*(one["result"] for one in results))
        )
    for name, render in SECTIONS.items():
        if not (RESULTS / f"{name}.json").exists():
            print(f"left out, not measured yet: {name}")
            continue
        kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        parts.append(render(kept["result"]) + "\n" + source(kept["environment"], name in OF_THE_EMBEDDED))
        if args.plots and name == "search":
            plot_search(kept["result"])
    if args.plots:
        plot_scaling()
    papers = sorted(RESULTS.glob("paper/*.json"))
    if papers:
        parts.append(
            "## The paper's tables and figures\n\nThe paper's numbers are those of BERT-base (110M parameters); ours "
            "are of the model that is named, so directions and sizes of changes compare, and levels do not. A change "
            "reproduces in direction if ours has the paper's sign and is larger than the spread over seeds, and in "
            "size if it is half to twice as large.\n"
        )
    for path in papers:
        kept = json.loads(path.read_text(encoding="utf-8"))
        parts.append(paper(kept["result"]) + "\n" + source(kept["environment"], kept["result"]["model"] == "embedded"))
    Path(RESULTS.parent, "results.md").write_text("\n".join(parts), encoding="utf-8")
    for name, page in (("gpu", gpu), ("profile", profile)):
        path = RESULTS / f"{name}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        Path(RESULTS.parent, f"{name}.md").write_text(page(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
