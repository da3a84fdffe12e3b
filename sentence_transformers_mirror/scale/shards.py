"""Files of texts become shards; what has the name of one is whole, so a run that ended goes on with the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.scale.work import Job, Work, sweep
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.shards import listed, place, read_shard
from sentence_transformers_mirror.search.state import identity
from sentence_transformers_mirror.terminal import bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

ENGINES = ("local", "ray")


def encode_shards(
    model: SentenceTransformer | str | Path,
    files: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    column: str | None = None,
    ids: str | None = None,
    metadata: Sequence[str] = (),
    dimensions: int | None = None,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> list[str]:
    """Embed files of texts, with the model's document prompt if it has one; gives a Parquet file of vectors for each.

    A run that was ended, by whatever, goes on if it is started again: shards that are there are left out. At most the
    shards that were being made are lost. Several programs may fill one folder, each from other files.

    Memory holds the model and 32,768 texts with their vectors, for each worker.

    Args:
        model: A model, or its name or path.
        files: Files of texts as for ``SearchIndex.build``: a list, a folder, or a pattern such as ``in/*.parquet``.
            Paths, or URIs of an object store such as ``s3://bucket/in/*.parquet``.
        out: The folder of the shards, made if it does not exist, or its URI. A shard has the name of its file.
        engine: ``local``, which is this machine, or ``ray``, which is the cluster that ``RAY_ADDRESS`` names.
        workers: Processes that work at the same time, each with a copy of the model; by default one, or one a GPU;
            with Ray as many as the cluster has GPUs, or groups of cores.
        threads: Cores of a worker without a GPU; by default a share of this machine's, and 4 with Ray.
        column: The column of the texts; by default ``text``, or the only one of strings.
        ids: The column of the ids; by default an id is the name of the file and the number of the text in it, such
            as ``part-7:0``.
        metadata: Columns that are kept as metadata.
        dimensions, batch_size: As for ``SearchIndex.build``.
        show_progress: Whether to show a bar over the shards; by default if standard error is a terminal.

    Raises:
        ImportError: If Ray is not installed.
        OSError: If the model or a file cannot be read, the folder not be written, or a worker died again and again.
        TypeError: If a text is no string, an id neither int nor str, or metadata no JSON values.
        ValueError: If a file has no such columns, a text is blank or has a zero or non-finite vector, two files would
            give one shard, or a shard in the folder is damaged or was made of other texts or by another model; it is
            left alone.

    Example:
        >>> from pathlib import Path
        >>> from sentence_transformers_mirror import SearchIndex, embedded_model_path, encode_shards
        >>> _ = Path("day-1.txt").write_text("Open a file.")
        >>> _ = Path("day-2.txt").write_text("Close a window.")
        >>> shards = encode_shards(embedded_model_path(), ["day-1.txt", "day-2.txt"], "vectors")
        >>> shards
        ['vectors/day-1.parquet', 'vectors/day-2.parquet']
        >>> index = SearchIndex.from_shards(shards, model=embedded_model_path())
        >>> index.search("how do I open a file?")[0].id
        'day-1:0'
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is 'local' or 'ray', not {quoted(engine)}.")
    for name, value in (("workers", workers), ("threads", threads), ("batch_size", batch_size)):
        if value is not None:
            whole_number(value, name, 1)
    if engine == "ray":
        from sentence_transformers_mirror.scale.ray import run
    else:
        from sentence_transformers_mirror.scale.work import run
    jobs = _jobs(listed(files), str(out))
    encoder = Encoder(model, dimensions)
    plan = {**asdict(identity(encoder)), "column": column, "ids": ids, "metadata": list(metadata)}
    system, folder = place(out)
    if system.get_file_info(folder).type == fs.FileType.File:
        raise OSError(f"{str(out)!r} is a file: name a folder for the shards.")
    there = {one.base_name for one in system.get_file_info(fs.FileSelector(folder, allow_not_found=True))}
    for name, job in jobs.items():
        if name in there:
            _check_made(job, plan)
    missing = [job for name, job in jobs.items() if name not in there]
    made = len(jobs) - len(missing)
    if made:
        logger.info(f"{made:,} of {len(jobs):,} shards are there already.")
    system.create_dir(folder, recursive=True)
    sweep(out, jobs)
    with bar(total=len(jobs), initial=made, unit=" shards", desc="Encoding", show=show_progress) as shown:
        run(Work(encoder.model, plan, batch_size), missing, workers, threads, shown.update)
    sweep(out, jobs)  # of workers that outlived their driver for a moment
    return [job.target for job in jobs.values()]


def _jobs(sources: list[str], out: str) -> dict[str, Job]:
    """By the names of their shards."""
    jobs: dict[str, Job] = {}
    for source in sources:
        name = Path(source).name
        if name.startswith((".", "_")):
            raise ValueError(f"{source!r} would become a shard that folders and patterns leave out: rename it.")
        name = f"{Path(name.removesuffix('.gz')).stem}.parquet"
        target = f"{out.rstrip('/')}/{name}"
        if name in jobs:
            raise ValueError(f"{jobs[name].source!r} and {source!r} would both become {target!r}: rename one.")
        if os.path.abspath(source) == os.path.abspath(target):
            raise ValueError(f"{source!r} would be replaced by its own shard: choose another folder for these.")
        jobs[name] = Job(source, target)
    return jobs


def _check_made(job: Job, plan: dict[str, Any]) -> None:
    """Refuse what has the name of a shard and is damaged, or not the one that would be made."""
    shard = read_shard(job.target)
    system, path = place(job.source)
    wanted = {**plan, "rows": shard.rows, "bytes": system.get_file_info(path).size}
    told = {
        "fingerprint": "by another model, or by this one with other weights or settings",
        "rows": "by something else",
        "bytes": f"before {job.source!r} was changed",
    }
    for name, value in sorted(wanted.items()):
        if name != "model" and shard.made.get(name) != value:
            how = told.get(name, f"with another choice of {name}")
            raise ValueError(f"{job.target!r} was made {how}: delete it, or choose another folder.")
