"""MTEB's tasks before and after tuning: `mteb.evaluate` on named tasks and on tasks made of local files.

Needs mteb, in an environment of its own: pip install -c constraints.txt . mteb

Named tasks come from the Hugging Face hub: ``nanobeir`` (NanoBEIR), ``sts`` (the STS of MTEB(eng, v2)), or any names
of MTEB. Local ones need no network: ``--data`` is a folder of labelled sets as for `st-mirror evaluate`, whose pairs
become STS tasks; ``--pairs`` is a table with the columns query and passage, which becomes a retrieval task: each query
looks for its passages among all of them.

``--trained-on`` declares what the tuned model was trained on, by the names that MTEB has for it, as its metadata wants
it: texts of a set count, also without their labels. It is no guess of the program's, so it must be given; ``none`` if
nothing of it is in MTEB.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import keep, model_path, parser
from benchmarks.markdown import source, table
from sentence_transformers_mirror.evidence.evaluation import SUITES
from sentence_transformers_mirror.evidence.labels import Pairs, read_pairs
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.texts.files import read_rows

if TYPE_CHECKING:
    from mteb import AbsTask
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper

GROUPS = {"nanobeir": ("NanoBEIR", "Retrieval"), "sts": ("MTEB(eng, v2)", "STS")}  # benchmark and type
NOTHING = "none"
# What MTEB calls the sets that have another name here.
COUNTERPARTS = {"STS-B": "STSBenchmark", "STS-B dev": "STSBenchmark", "SICK-R dev": "SICK-R"}


def named(names: list[str]) -> dict[str, list[AbsTask]]:
    """Tasks by the group or name that asked for them."""
    import mteb

    found: dict[str, list[AbsTask]] = {}
    for name in names:
        if name in GROUPS:
            benchmark, kind = GROUPS[name]
            found[name] = [task for task in mteb.get_benchmark(benchmark).tasks if task.metadata.type == kind]
        else:
            found[name] = [mteb.get_task(name)]
    return found


def _metadata(name: str, kind: str, score: str, adapted_from: list[str] | None = None) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        description="Made of a local file.",
        dataset={"path": "local", "revision": "local"},
        type=kind,
        eval_langs=["eng-Latn"],
        main_score=score,
        adapted_from=adapted_from,
    )


def sts_task(name: str, pairs: Pairs) -> AbsTask:
    """A labelled set of pairs as a task of MTEB, scored by Spearman's correlation of cosines."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskSTS

    class LocalPairs(AbsTaskSTS):
        metadata = _metadata(f"local {name}", "STS", "cosine_spearman", [COUNTERPARTS.get(name, name)])
        min_score, max_score = min(pairs.scores), max(pairs.scores)

        def load_data(self, **_: Any) -> None:
            columns = {"sentence1": pairs.first, "sentence2": pairs.second, "score": pairs.scores}
            self.dataset, self.data_loaded = {"test": Dataset.from_dict(columns)}, True

    return LocalPairs()


def retrieval_task(name: str, pairs: list[tuple[str, str]]) -> AbsTask:
    """Queries and their passages as a task of MTEB, scored by nDCG@10; equal texts are one."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    queries = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
    passages = {text: f"p{number}" for number, text in enumerate(dict.fromkeys(passage for _, passage in pairs))}
    relevant: dict[str, dict[str, int]] = {}
    for query, passage in pairs:
        relevant.setdefault(queries[query], {})[passages[passage]] = 1

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = _metadata(name, "Retrieval", "ndcg_at_10")

        def load_data(self, **_: Any) -> None:
            test = {
                "corpus": Dataset.from_dict({"id": list(passages.values()), "text": list(passages)}),
                "queries": Dataset.from_dict({"id": list(queries.values()), "text": list(queries)}),
                "relevant_docs": relevant,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": test}}, True

    return LocalRetrieval()


def local(data: Path | None, sets: list[str] | None, pairs: Path | None) -> dict[str, list[AbsTask]]:
    """Tasks of local files: one for each set of pairs in a folder, and one for a table of queries and passages."""
    found: dict[str, list[AbsTask]] = {}
    if data is not None:
        read = {name: read_pairs(data, name) for name in sets or [*SUITES["sts"], *SUITES["words"]]}
        absent = [name for name, one in read.items() if one is None]
        if sets and absent:
            raise FileNotFoundError(f"{str(data)!r} has no {', '.join(absent)}: name other sets, or the other folder.")
        found["local pairs"] = [sts_task(name, one) for name, one in read.items() if one is not None]
    if pairs is not None:
        rows = [(row["query"], row["passage"]) for _, row in read_rows(pairs)]
        found["local retrieval"] = [retrieval_task(f"local {pairs.name}", rows)]
    return found


def wrapped(name: str, trained_on: set[str] | None, adapted_from: str | None) -> SentenceTransformerEncoderWrapper:
    """A model as MTEB takes it, with its training corpora in its metadata.

    Args:
        name: Folder, name in the hub, or "embedded".
        trained_on: Names of MTEB; None where nobody knows.
        adapted_from: The name of the model that it was before.
    """
    from mteb.models import SentenceTransformerEncoderWrapper

    model = SentenceTransformerEncoderWrapper(load_model(model_path(name)))
    told = {"name": public_name(name), "training_datasets": trained_on, "adapted_from": adapted_from}
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update=told)
    return model


def public_name(name: str) -> str:
    """The name of a model as MTEB has names, ``organisation/model``; a folder is nobody's."""
    return name if name.count("/") == 1 and not os.path.exists(name) else f"local/{Path(name).name}"


def known_corpora(name: str) -> set[str] | None:
    """What MTEB knows a model to be trained on; None where it does not know the model."""
    import mteb

    try:
        return mteb.get_model_meta(name, fetch_from_hf=False).get_training_datasets()
    except (KeyError, ValueError):
        return None


def measure(before: str, after: str, trained_on: set[str], groups: dict[str, list[AbsTask]]) -> dict[str, Any]:
    """Scores x 100 of both models on each task, and whether the tuned one saw texts of it."""
    import mteb

    known = known_corpora(before)
    models = {
        "before": wrapped(before, known, None),
        "after": wrapped(after, trained_on | (known or set()), public_name(before)),
    }
    seen = corpora(models["after"].mteb_model_meta)
    tasks = [task for group in groups.values() for task in group]
    scores: dict[str, dict[str, float]] = {}
    for moment, model in models.items():
        found = mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
        scores[moment] = {one.task_name: 100 * one.get_score() for one in found.task_results}
    rows = [
        {
            "group": group,
            "task": task.metadata.name,
            "metric": task.metadata.main_score,
            **{moment: scores[moment][task.metadata.name] for moment in models},
            "trained on": not seen.isdisjoint([task.metadata.name, *(task.metadata.adapted_from or ())]),
        }
        for group, members in groups.items()
        for task in members
    ]
    metadata = {moment: described(model.mteb_model_meta) for moment, model in models.items()}
    return {"mteb": mteb.__version__, "models": metadata, "rows": rows}


def corpora(meta: ModelMeta) -> set[str]:
    """What a model was trained on, with the tasks that MTEB holds to be the same, as far as that is known."""
    return meta.get_training_datasets() or set()


def described(meta: ModelMeta) -> dict[str, Any]:
    trained = meta.training_datasets
    told = None if trained is None else sorted(trained)
    return {"name": meta.name, "training_datasets": told, "adapted_from": meta.adapted_from}


def section(kept: dict) -> str:
    result = kept["result"]
    rows = []
    for group in dict.fromkeys(row["group"] for row in result["rows"]):
        mine = [row for row in result["rows"] if row["group"] == group]
        rows += [_line(row["task"], row["metric"], row, "yes" if row["trained on"] else "") for row in mine]
        if len(mine) > 1:
            mean = {moment: statistics.mean(row[moment] for row in mine) for moment in ("before", "after")}
            rows.append(_line(f"mean of {group}", mine[0]["metric"], mean, ""))
    before, after = (result["models"][moment] for moment in ("before", "after"))
    declared = ", ".join(after["training_datasets"]) or "none of MTEB"
    unknown = "" if before["training_datasets"] is not None else " MTEB does not know what the model before saw."
    return (
        "## MTEB before and after tuning\n\n"
        f"Scores x 100 by mteb {result['mteb']}. Before: `{before['name']}`; after: `{after['name']}`, whose metadata "
        f"declares its training corpora: {declared}.{unknown} Tasks named local are made of files, and their numbers "
        f"stand in no table of MTEB.\n\n{table(rows)}\n{source(kept['environment'])}"
    )


def _line(task: str, metric: str, row: dict[str, float], seen: str) -> dict[str, object]:
    before, after = row["before"], row["after"]
    return {
        "task": task,
        "metric": metric,
        "before": f"{before:.2f}",
        "after": f"{after:.2f}",
        "difference": f"{after - before:+.2f}",
        "trained on": seen,
    }


def main() -> None:
    args = parser(__doc__)
    args.add_argument("before", help="folder, name in the hub, or 'embedded'")
    args.add_argument("after", help="the same model, tuned")
    args.add_argument("--trained-on", nargs="+", required=True, metavar="NAME", help=f"or {NOTHING!r}")
    args.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help=f"{', '.join(GROUPS)} or names of MTEB")
    args.add_argument("--data", type=Path, help="folder of labelled sets, for local tasks")
    args.add_argument("--sets", nargs="+", metavar="NAME", help="those of --data (default: all pairs that are there)")
    args.add_argument("--pairs", type=Path, help="table with the columns query and passage, for a local task")
    given = args.parse_args()
    groups = {**named(given.tasks), **local(given.data, given.sets, given.pairs)}
    if not any(groups.values()):
        args.error("there is no task: pass --tasks, --data or --pairs.")
    trained_on = set(given.trained_on) - {NOTHING}
    print(section(keep("mteb_tasks", measure(given.before, given.after, trained_on, groups), given.output)))


if __name__ == "__main__":
    main()
