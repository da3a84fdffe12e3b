"""Shards in Milvus, a distributed database for vectors, and a search there that gives the hits of an index.

A row has the primary key ``uuid5`` of its id, so that sending it twice changes nothing, and the mark of its shard, so
that an export that was ended goes on with the shards that are not there in full.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import check_text
from sentence_transformers_mirror.search.filters import Where
from sentence_transformers_mirror.search.hits import Hit
from sentence_transformers_mirror.search.shards import Shard, read_shards, unit_rows
from sentence_transformers_mirror.search.state import Identity
from sentence_transformers_mirror.terminal import bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_KEYS = uuid.UUID("6f1d1d1c-3c55-5a8b-9b39-4d2f6f0c7a11")  # the name space of ours
_ABOUT = "sentence_transformers_mirror"  # the property that tells of the model
_LONGEST = 65_535  # bytes that a string or a JSON value may have in Milvus
_STRINGS = {"key": 36, "id": _LONGEST, "text": _LONGEST, "shard": 24}  # fields and their bytes at most
_ADDRESS = re.compile(r"(?:milvus(s?)://([^/]+)|((?!.*://).*\.db))/([A-Za-z_]\w*)", re.DOTALL)
_ROWS, _BYTES = 1_000, 2**24  # of a message, which may have 64 MiB
_MOST = 16_384  # hits that Milvus gives
_SECONDS = 60.0  # that a call may take


def export(shards: str | Path | Iterable[str | Path], uri: str, *, show_progress: bool | None = None) -> int:
    """Send the shards that `encode_shards` made to a collection of Milvus; gives the number of their texts.

    An export that was ended, by whatever, goes on if it is started again. The collection is made if it is not there:
    exact up to 100,000 rows, with an HNSW graph up to 20 million, and inverted lists of 8-bit numbers beyond.

    Args:
        shards: Shards: a list, a folder, or a pattern such as ``out/*.parquet``. Paths, or URIs of an object store.
        uri: ``milvus://host:19530/collection`` (``milvuss`` for TLS; the token is in the environment, as
            ``MILVUS_TOKEN``), or ``folder.db/collection`` for Milvus Lite in this process.
        show_progress: Whether to show a bar over the rows; by default if standard error is a terminal.

    Raises:
        ImportError: If pymilvus is not installed.
        OSError: If a shard cannot be read, or Milvus not be reached.
        ValueError: If a shard is damaged, the shards are of two models, an id is there twice, the collection is of
            another model, dimension or kind, or a text or its metadata is longer than Milvus takes.

    Example:
        >>> from pathlib import Path
        >>> from sentence_transformers_mirror import embedded_model_path, encode_shards, export
        >>> _ = Path("texts.txt").write_text("Open a file. Close a window.".replace(". ", ".\\n"))
        >>> export(encode_shards(embedded_model_path(), ["texts.txt"], "vectors"), "exported.db/texts")
        2
    """
    found = read_shards(shards)
    total = sum(shard.rows for shard in found)
    with _opened(uri) as (client, name):
        _prepare(client, name, found[0], total)
        with bar(total=total, unit=" texts", desc="Sending", show=show_progress) as shown:
            for shard in found:
                if _count(client, name, f'shard == "{shard.mark}"') < shard.rows:
                    for rows in _rows(shard):
                        client.upsert(name, rows, timeout=_SECONDS)
                        shown.update(len(rows))
                else:
                    shown.update(shard.rows)
        client.flush(name)
    return total


class MilvusSearch(AbstractContextManager["MilvusSearch"]):
    """Search by meaning in a collection that `export` filled.

    Args:
        uri: As for `export`.
        model: The model that made the vectors, or its name or path.

    Raises:
        ImportError, OSError: As for `export`; or if the model cannot be read.
        ValueError: If there is no such collection, or another model filled it.

    Example:
        >>> from pathlib import Path
        >>> from sentence_transformers_mirror import MilvusSearch, embedded_model_path, encode_shards, export
        >>> _ = Path("one.txt").write_text("Open a file.")
        >>> _ = export(encode_shards(embedded_model_path(), ["one.txt"], "one"), "search.db/one")
        >>> with MilvusSearch("search.db/one", embedded_model_path()) as index:
        ...     [hit.id for hit in index.search("how do I open a file?")]
        ['one:0']
    """

    def __init__(self, uri: str, model: SentenceTransformer | str | Path) -> None:
        self._uri = uri
        with ExitStack() as stack:
            self._client, self._name = stack.enter_context(_opened(uri))
            made, _ = _about(self._client, self._name)
            kind = self._client.describe_index(self._name, "embedding")
            self._client.load_collection(self._name)
            self._index = kind["index_type"], int(kind.get("nlist", 128))
            self._encoder = Encoder(model, made.dimensions)
            if self._encoder.fingerprint != made.fingerprint:
                raise ValueError(
                    f"The collection {self._name!r} was filled by another model ({made.model}), or by this one "
                    "with other weights or settings: pass the model that made its vectors."
                )
            self._connection = stack.pop_all()

    def close(self) -> None:
        """End the connection; Milvus Lite lets other programs open its folder then."""
        self._connection.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of texts."""
        with _telling(self._uri):
            return _count(self._client, self._name, "")

    @overload
    def search(self, query: str, top_k: int = ..., where: Where | None = ...) -> list[Hit]: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, query: Sequence[str], top_k: int = ..., where: Where | None = ...) -> list[list[Hit]]: ...

    def search(
        self, query: str | Sequence[str], top_k: int = 10, where: Where | None = None
    ) -> list[Hit] | list[list[Hit]]:
        """Find the texts that are nearest in meaning, as ``SearchIndex.search`` does.

        Args:
            query: A query, or several.
            top_k: Hits wanted, 1 to 16,384.
            where: For each key of the metadata a value, or a collection of values of which one must be there. Unlike
                an index, Milvus takes neither functions nor None, and Milvus Lite takes 1 and true for equal.

        Raises:
            OSError: If Milvus cannot be reached.
            TypeError, ValueError: As for ``SearchIndex.search``.
        """
        if whole_number(top_k, "top_k", 1) > _MOST:
            raise ValueError(f"Milvus gives {_MOST:,} hits at most: ask for fewer with top_k.")
        asked = [query] if isinstance(query, str) else list(query)
        for text in asked:
            check_text(text, "query")
        wanted = expression(where or {})
        if not asked:
            return []
        kind, lists = self._index
        effort = {"HNSW": {"ef": max(128, 4 * top_k)}, "IVF_SQ8": {"nprobe": max(16, lists // 32)}}.get(kind, {})
        how = {"anns_field": "embedding", "search_params": {"metric_type": "IP", "params": effort}}
        what = {"output_fields": ["id", "text", "metadata"], "timeout": _SECONDS}
        vectors = list(self._encoder.queries(asked))
        with _telling(self._uri):
            found = self._client.search(self._name, vectors, filter=wanted, limit=top_k, **how, **what)
            if where and not any(found):
                for key in where:
                    if not _count(self._client, self._name, f"exists {_path(key)}"):
                        raise ValueError(f"No text has a value under {quoted(key)} in its metadata: check the name.")
        hits = [[_hit(one["distance"], one["entity"]) for one in line] for line in found]
        return hits[0] if isinstance(query, str) else hits


def expression(where: Where) -> str:
    """What Milvus calls a condition on metadata; a list in the metadata meets one if one of its elements does."""
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise TypeError(f"where must be a dictionary of metadata keys and values, not {quoted(where)}.")
    parts = []
    for key, wanted in where.items():
        wanted = plain(wanted)
        several = hasattr(wanted, "__iter__") and not isinstance(wanted, (str, bytes, Mapping))
        options = [plain(option) for option in wanted] if several else [wanted]
        if not all(isinstance(one, (str, int)) or (isinstance(one, float) and math.isfinite(one)) for one in options):
            raise TypeError(f"where[{key!r}] must be strings, numbers or bools for Milvus, not {quoted(wanted)}.")
        told = [json.dumps(option, ensure_ascii=False) for option in options]
        # `in` is not taken for JSON.
        meets = [f"{_path(key)} == {value} or json_contains({_path(key)}, {value})" for value in told]
        parts.append("(" + (" or ".join(meets) or 'key == ""') + ")")
    return " and ".join(parts)


def _path(key: str) -> str:
    return f"metadata[{json.dumps(key, ensure_ascii=False)}]"


def _hit(score: float, entity: Mapping[str, Any]) -> Hit:
    score = min(max(float(score), -1.0), 1.0)
    return Hit(json.loads(entity["id"]), score, entity["text"], entity["metadata"], score, None, None, None)


def _rows(shard: Shard) -> Iterator[list[dict[str, Any]]]:
    """The rows of a shard in messages that Milvus takes."""
    rows, filled = [], 0
    for vectors, table in unit_rows(shard, _ROWS):
        for row, vector in zip(table.to_pylist(), vectors, strict=True):
            filled += vector.nbytes
            for what in ("text", "metadata", "id"):
                size = len((row[what] or "").encode())
                filled += size
                if size > _LONGEST:
                    raise ValueError(
                        f"{shard.file!r}: the {what} of the id {quoted(json.loads(row['id']))} has {size:,} bytes, "
                        f"and Milvus takes {_LONGEST:,}: cut the texts first, and encode them again."
                    )
            key, metadata = str(uuid.uuid5(_KEYS, row["id"])), json.loads(row["metadata"] or "{}")
            rows.append({**row, "key": key, "metadata": metadata, "shard": shard.mark, "embedding": vector})
            if filled >= _BYTES or len(rows) == _ROWS:
                yield rows
                rows, filled = [], 0
    if rows:
        yield rows


def _prepare(client: Any, name: str, shard: Shard, rows: int) -> None:
    """Make the collection, or see that the one that is there takes the shards."""
    from pymilvus import DataType

    if client.has_collection(name):
        made, dimension = _about(client, name)
        if dimension != shard.dimension:
            raise ValueError(
                f"The collection {name!r} has vectors of {dimension} dimensions and the shards of {shard.dimension}: "
                "name another collection."
            )
        if made.fingerprint != shard.model.fingerprint:
            raise ValueError(f"The collection {name!r} was filled by another model: name another collection.")
        rows = max(rows, int(client.get_collection_stats(name)["row_count"]))
    else:
        about = json.dumps(asdict(shard.model))
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
        for field, most in _STRINGS.items():
            schema.add_field(field, DataType.VARCHAR, max_length=most, is_primary=field == "key")
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=shard.dimension)
        # Milvus keeps a description, and Milvus Lite only properties.
        client.create_collection(name, schema=schema, properties={_ABOUT: about})
    kind, options = index_for(rows)
    indexes = client.list_indexes(name)
    if not indexes or client.describe_index(name, indexes[0])["index_type"] != kind:
        if indexes:
            client.release_collection(name)
            client.drop_index(name, indexes[0])
        about_index = {"index_type": kind, "index_name": "embedding", "metric_type": "IP", "params": options}
        client.create_index(name, client.prepare_index_params("embedding", **about_index))
    client.load_collection(name)


def index_for(rows: int) -> tuple[str, dict[str, int]]:
    """The kind of index that suits so many rows, and its parameters."""
    if rows <= 100_000:
        return "FLAT", {}
    if rows <= 20_000_000:
        return "HNSW", {"M": 32, "efConstruction": 200}
    return "IVF_SQ8", {"nlist": min(round(4 * math.sqrt(rows)), 65_536)}


def _about(client: Any, name: str) -> tuple[Identity, int]:
    """The model that filled a collection, and the dimension of its vectors."""
    if not client.has_collection(name):
        raise ValueError(f"There is no collection {name!r}: export shards into it first, or check the name.")
    told = client.describe_collection(name)
    fields = {field["name"]: field for field in told["fields"]}
    with suppress(KeyError, TypeError, ValueError):
        if fields.keys() >= {*_STRINGS, "metadata", "embedding"}:
            made = json.loads(told["description"] or told["properties"][_ABOUT])
            model = Identity(*(made[name] for name in Identity.__dataclass_fields__))
            return model, int(fields["embedding"]["params"]["dim"])
    raise ValueError(
        f"The collection {name!r} was not made by `export`, it has other fields: name another collection."
    )


def _count(client: Any, name: str, condition: str) -> int:
    options = {"output_fields": ["count(*)"], "consistency_level": "Strong", "timeout": _SECONDS}
    return int(client.query(name, filter=condition, **options)[0]["count(*)"])


@contextmanager
def _opened(uri: str) -> Iterator[tuple[Any, str]]:
    """A client of the Milvus at an address, and the name of the collection."""
    try:
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises
        from pymilvus import MilvusClient
    except ImportError as error:
        raise ImportError("Milvus needs pymilvus: pip install 'sentence-transformers-mirror[milvus]'.") from error
    found = _ADDRESS.fullmatch(uri)
    if not found:
        raise ValueError(
            f"{quoted(uri)} is no address of a collection: write milvus://host:19530/collection, or "
            "folder.db/collection, with letters, digits and underscores for the collection."
        )
    secure, server, folder, name = found.groups()
    if folder:
        Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with _telling(uri):
        address = folder or f"http{secure}://{server}"
        client = MilvusClient(uri=address, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)
        try:
            yield client, name
        finally:
            client.close()


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """What Milvus complains about, in one sentence."""
    from pymilvus import MilvusException

    try:
        yield
    except MilvusException as error:
        said = " ".join(str(error.message).split())[:160].rstrip(". ")
        raise OSError(
            f"The Milvus of {quoted(uri, 120)} could not be reached or refused the work ({said}): see that it runs "
            "and that no other program has its folder open, and start again; what is there stays."
        ) from error
