"""The API of search: build an index over texts, ask it, change it, keep it in a folder and open it from there."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sentence_transformers_mirror.errors import ConflictError
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.scalars import whole_number
from sentence_transformers_mirror.search import shards, store, words
from sentence_transformers_mirror.search.changing import Changed
from sentence_transformers_mirror.search.choosing import Choice
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import windows
from sentence_transformers_mirror.search.identity import EARLIER, KIND, fingerprint
from sentence_transformers_mirror.search.manifest import Manifest
from sentence_transformers_mirror.search.passages import Cutter
from sentence_transformers_mirror.search.rows import DOCUMENTS, WINDOW, Rows, agree, of_texts, of_vectors
from sentence_transformers_mirror.search.saving import KeptStructure, Save, saving
from sentence_transformers_mirror.search.segments import Segment, entries_schema, gathered
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.state import Identity, State, identity

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from typing_extensions import Self


class SearchIndex(Changed):
    """Search over texts by the cosine similarity of their embeddings.

    Made by ``build``, ``from_vectors``, ``from_shards``, ``load`` or ``open``. Threads may search it while
    another changes and saves it: a search sees the index as it was when the search began.
    """

    @classmethod
    def build(
        cls,
        model: SentenceTransformer | str | Path,
        texts: Iterable[str] | Dataset | Path,
        *,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        kind: str = "auto",
        recall: float = 0.95,
        max_latency: float = 0.02,
        max_memory: int = 2**32,
        dimensions: int | None = None,
        language: str | None = None,
        passages: int | None = None,
        path: str | Path | None = None,
        batch_size: int | None = None,
        show_progress: bool | None = None,
        overwrite: bool = False,
    ) -> SearchIndex:
        """Embed texts, with the model's document prompt if it has one, and index them.

        Texts are read in windows of 32,768. With ``path``, vectors and texts go to disk as they come, and memory
        holds one window, about 100 bytes an id that was given, and the structure: nothing for ``flat``, 4 bytes a
        number for ``hnsw`` and ``ivf-flat``, 1 for ``ivf-sq8``, an eighth for ``ivf-pq``, and 8 bytes a row. Without,
        it holds vectors (4 bytes a number) and texts besides.

        Args:
            model: A model, or its name or path.
            texts: Strings, none of them blank; a ``datasets.Dataset`` with a column ``text``; or a ``pathlib.Path``
                of a file of them (a text a line; csv, tsv, json, jsonl or parquet with a column ``text``).
            ids: An int or str per text, all different; by default the position of the text, from 0.
            metadata: A dictionary of JSON values per text, or None.
            kind: How to search: ``flat`` (exact), ``hnsw``, ``ivf-flat``, ``ivf-sq8``, ``ivf-pq``, a factory string
                of FAISS, or ``auto``: exact while a measured scan takes at most ``max_latency``, else inverted lists.
            recall: Recall@10 that anything but ``flat`` is tuned to on rows of the index, in (0, 1).
            max_latency: Seconds that one query may take, for ``auto``.
            max_memory: Bytes of vectors, above which ``auto`` keeps them quantised to one byte a number.
            dimensions: Keep only so many dimensions of a vector, for Matryoshka models.
            language: Language whose words are stemmed for a search by words, such as ``english``; None stems none.
            passages: Cut texts into passages of at most so many tokens, at the ends of sentences where there are any,
                and find a text by its best one; None embeds a text as a whole, as far as the model reads.
            path: Write the index here while it is built; it is then open (memory-mapped).
            batch_size: Texts embedded at a time; by default so many that they have about 1,000 tokens, or
                16,000 on a GPU.
            show_progress: Whether to show a progress bar; by default if standard error is a terminal.
            overwrite: Whether to replace an index that lies at ``path``.

        Returns:
            The index. It keeps the model to embed queries.

        Raises:
            ConflictError: If an index lies at ``path`` and is not to be overwritten.
            OSError: If the model or a file cannot be read, or the folder not be written.
            TypeError: If a text is no string, an id neither int nor str, metadata no dictionary of JSON values, or
                ``model`` no model.
            ValueError: If there are no texts, one is blank or has a zero or non-finite vector, the ids are not one per
                text and all different, or FAISS cannot make the kind.
        """
        choice = Choice(kind, recall, max_latency, max_memory)
        batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
        words.check_language(language)
        passages = (
            None if passages is None else whole_number(passages, "passages is the number of tokens in one and", 1)
        )
        if path is not None:
            store.refuse_taken(path, overwrite)
        entries = windows(texts, ids, metadata, WINDOW if passages is None else DOCUMENTS)
        first = next(entries, None)  # complains about texts before a model is loaded
        if first is None:
            raise ValueError("There is nothing to index: pass at least one text.")
        encoder = Encoder(model, dimensions)
        cutter = None if passages is None else Cutter(encoder.model, passages)
        total = len(texts) if isinstance(texts, Sized) and cutter is None else None

        rows = of_texts(encoder, itertools.chain([first], entries), cutter, batch_size, total, show_progress)
        return cls._made(rows, path, choice, language, encoder, passages=passages)

    @classmethod
    def from_vectors(
        cls,
        vectors: np.ndarray,
        texts: Iterable[str] | Dataset | Path,
        *,
        ids: Iterable[int | str] | None = None,
        metadata: Iterable[Mapping[str, Any] | None] | None = None,
        model: SentenceTransformer | str | Path | None = None,
        kind: str = "auto",
        recall: float = 0.95,
        max_latency: float = 0.02,
        max_memory: int = 2**32,
        language: str | None = None,
        path: str | Path | None = None,
        overwrite: bool = False,
    ) -> SearchIndex:
        """Index texts whose embeddings are there already.

        Args:
            vectors: Shape (texts, dimension), numbers; they are normalised. May be memory-mapped.
            texts, ids, metadata, kind, recall, max_latency, max_memory, language, path, overwrite: As for ``build``.
            model: The model that made the vectors, for queries in words; a few texts are embedded to see whether it
                did. Without it, search with vectors.

        Raises:
            ConflictError, OSError, TypeError: As for ``build``.
            ValueError: As for ``build``; or if the vectors are not one per text, or not of this model.
        """
        choice = Choice(kind, recall, max_latency, max_memory)
        words.check_language(language)
        if getattr(vectors, "ndim", 0) != 2 or not vectors.shape[1]:
            raise ValueError("vectors must be an array of shape (texts, dimension).")
        if path is not None:
            store.refuse_taken(path, overwrite)
        encoder = None if model is None else Encoder(model, None)

        if not len(vectors):
            raise ValueError("There is nothing to index: pass at least one text.")
        rows = of_vectors(vectors, windows(texts, ids, metadata, WINDOW), encoder)
        return cls._made(rows, path, choice, language, encoder)

    @classmethod
    def from_shards(
        cls,
        files: str | Path | Iterable[str | Path],
        *,
        path: str | Path | None = None,
        model: SentenceTransformer | str | Path | None = None,
        kind: str = "auto",
        recall: float = 0.95,
        max_latency: float = 0.02,
        max_memory: int = 2**32,
        language: str | None = None,
        show_progress: bool | None = None,
        overwrite: bool = False,
    ) -> SearchIndex:
        """Index the shards that `encode_shards` made, in their order.

        With ``path`` rows go from disk to disk. Memory then holds the structure of FAISS, up to 16 bytes a row while
        it is made, 160 vectors for each root of the number of rows to train it on, and what does not grow:
        32,768 rows and one part of 16 MiB of text whose words are counted.

        Args:
            files: Shards: a list, a folder, or a pattern such as ``out/*.parquet``. Paths, or URIs of an object store.
            model: The model that made them, for queries in words. Without it, search with vectors.
            path, kind, recall, max_latency, max_memory, language, show_progress, overwrite: As for ``build``.

        Raises:
            ConflictError: As for ``build``.
            OSError: If a shard is not there or cannot be read, the model cannot be loaded, or the folder not be
                written.
            TypeError: If ``model`` is no model.
            ValueError: If a file is no shard or is damaged, the shards are of two models or not of this one, an id is
                there twice, there is no text, or FAISS cannot make the kind.
        """
        choice = Choice(kind, recall, max_latency, max_memory)
        words.check_language(language)
        if path is not None:
            store.refuse_taken(path, overwrite)
        found = shards.read_shards(files)
        known = found[0].model
        encoder = None if model is None else Encoder(model, known.dimensions)
        if encoder is not None and encoder.fingerprint != known.fingerprint:
            raise ValueError(
                f"The shards were made by another model ({known.model}), or by this one with other weights or "
                "settings: pass the model that made them."
            )
        return cls._made(shards.all_rows(found, show_progress), path, choice, language, encoder, known)

    @classmethod
    def _made(
        cls,
        rows: Rows,
        path: str | Path | None,
        choice: Choice,
        language: str | None,
        encoder: Encoder | None,
        known: Identity | None = None,
        passages: int | None = None,
    ) -> Self:
        def over(segment: Segment) -> State:
            snapshot = replace(Snapshot.of(segment), language=language, passages=passages)
            return State(snapshot, segment.vectors.shape[1], encoder, identity(encoder, known), choice).settled()

        if path is None:
            return cls(over(gathered(rows)))
        with saving(path) as save:
            schema = entries_schema(passages)
            record, dimension = save.rows(rows, schema)
            segment = store.read_segment(save.folder, record, dimension, schema, mapped=True)
            index = cls(over(segment))
            index._write(save)
        return index

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the index, but not the model, into a folder; its older save there is replaced in one step.

        What lies there already is not written again, unless it was damaged: saving after adding a few texts writes
        these.

        Args:
            path: The folder; made if it does not exist.
            overwrite: Whether to replace an index in it that was neither loaded from there nor saved there by this
                object.

        Raises:
            BrokenIndexError: If a ``manifest.json`` that is no index lies there; it is left alone.
            ConflictError: If another program is writing there, or has saved there since this index was loaded from
                there or saved there; or another index lies there.
            OSError: If the folder cannot be written. The message says whether the index that was there is unchanged.
        """
        with self._writing, saving(path) as save:
            known = self._homes.get(save.home)
            if save.replaced is not None and known is not None and save.replaced not in known:
                raise ConflictError(
                    f"The index in {path} was changed by another program since it was loaded here: load it again "
                    "and repeat the change, or save into another folder."
                )
            if known is None:
                store.refuse_taken(path, overwrite)
            self._write(save)

    def _write(self, save: Save) -> None:
        state = self._state
        snapshot = state.snapshot
        manifest = Manifest(
            rows=len(snapshot.removed),
            dimension=state.dimension,
            **asdict(state.model),
            segments=tuple(save.segment(segment, snapshot) for segment in snapshot.segments),
            removed=save.removed(snapshot),
            structure=save.structure(snapshot, self._structure_file),
            choice=state.choice,
            report=snapshot.report,
            calibration=snapshot.calibration,
            next_id=snapshot.next_id,
            language=snapshot.language,
            passages=snapshot.passages,
            tag=save.tag,
        )
        # Before the commit: whatever breaks in after it, this index knows its own save again.
        self._homes[save.home] = (*self._homes.get(save.home, ())[-1:], save.tag)
        save.commit(manifest)
        self._homes[save.home] = (save.tag,)
        for segment, record in zip(snapshot.segments, manifest.segments, strict=True):
            save.note(segment, record)
        if snapshot.structure is not None and manifest.structure is not None:
            self._structure_file = KeptStructure(snapshot.structure, save.home, manifest.structure)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: SentenceTransformer | str | Path | None = None,
        *,
        structure: Literal["read", "rebuild"] = "read",
    ) -> Self:
        """Load an index into memory, after verifying every checksum.

        Args:
            path: The folder.
            model: The model that built the index, or its name or path. Without it, only vectors can be searched.
            structure: ``rebuild`` makes the FAISS structure anew and leaves its file unread. FAISS cannot check what
                it reads: choose this for an index from people whom you do not trust.

        Returns:
            The index.

        Raises:
            BrokenIndexError: If the folder holds no index, or one that is damaged or of a newer format.
            OSError: If there is no such model.
            TypeError: If ``model`` is no model.
            ValueError: If another model built the index.
        """
        return cls._opened(path, model, mapped=False, structure=structure)

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: SentenceTransformer | str | Path | None = None,
        *,
        structure: Literal["read", "rebuild"] = "read",
    ) -> Self:
        """Open an index without reading it: its files are memory-mapped.

        Manifest, sizes and headers are verified; texts and FAISS structure are in full before their first use. That
        no number in a vector was damaged on disk it does not promise; ``verify`` does.

        Args and Raises: As for ``load``; a damaged file may be found at the first search only.
        """
        return cls._opened(path, model, mapped=True, structure=structure)

    @classmethod
    def _opened(
        cls, path: str | Path, model: SentenceTransformer | str | Path | None, mapped: bool, structure: str
    ) -> Self:
        if structure not in ("read", "rebuild"):
            raise ValueError(f"structure is 'read' or 'rebuild', not {quoted(structure)}.")
        contents = store.read(path, mapped, structure == "read")
        snapshot, manifest, home = contents.snapshot, contents.manifest, contents.home
        made_by = Identity(manifest.fingerprint, manifest.model, manifest.dimensions)
        index = cls(State(snapshot, manifest.dimension, None, made_by, manifest.choice))
        index._homes[home] = (manifest.tag,)
        if snapshot.structure is not None and manifest.structure is not None and structure == "read":
            index._structure_file = KeptStructure(snapshot.structure, home, manifest.structure)
        if model is not None:
            index._take(Encoder(model, manifest.dimensions), path)
        if not mapped:
            index._snapshot.loaded  # noqa: B018  # now, rather than at the first search
        return index

    def _take(self, encoder: Encoder, path: str | Path) -> None:
        """Take a model as the one that made the vectors, if it did."""
        state = self._state
        known = state.model.fingerprint
        if known is None:
            snapshot = state.snapshot
            rows = snapshot.rows()[:3]
            texts = [segment.passage(local) for segment, local in map(snapshot.locate, rows.tolist())]
            agree(encoder, snapshot.vectors.take(rows), texts)
        elif not known.startswith((KIND, EARLIER)):
            raise ValueError(
                f"The index in {path} is of an earlier release, which did not look at tokenizers and settings of "
                "modules: load it without a model, call rebuild(model), and save it."
            )
        elif known != (
            encoder.fingerprint if known.startswith(KIND) else fingerprint(encoder.model, encoder.dimensions, EARLIER)
        ):
            raise ValueError(
                f"The index in {path} was built by another model, or by this one with other weights, tokenizer, "
                "prompts, length limit or pooling: pass the model that built it, or build the index again with this "
                "one."
            )
        if encoder.width is not None and encoder.width != state.dimension:
            raise ValueError(
                f"The index in {path} has {state.dimension} dimensions and the model {encoder.width}: pass the model "
                "that built it."
            )
        self._state = replace(state, encoder=encoder, model=identity(encoder, state.model))

    @staticmethod
    def verify(path: str | Path) -> dict[str, Any]:
        """Read and verify every byte of an index on disk.

        Returns:
            ``texts``, ``files`` and ``bytes``, as numbers.

        Raises:
            BrokenIndexError: If anything is damaged, naming the file.
        """
        return store.verify(path)
