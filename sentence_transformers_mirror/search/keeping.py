"""Keep an index in a folder, and open it from there."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sentence_transformers_mirror.errors import ConflictError
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search import store
from sentence_transformers_mirror.search.base import Base
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.identity import EARLIER, KIND, fingerprint
from sentence_transformers_mirror.search.manifest import Manifest
from sentence_transformers_mirror.search.rows import agree
from sentence_transformers_mirror.search.saving import KeptStructure, Save, saving
from sentence_transformers_mirror.search.state import Identity, identity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from typing_extensions import Self


class Kept(Base):
    """What is done with folders."""

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
            choice=self._choice,
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
        del contents  # with it the file of FAISS, once its structure is made
        made_by = Identity(manifest.fingerprint, manifest.model, manifest.dimensions)
        index = cls(snapshot, dimension=manifest.dimension, choice=manifest.choice, model=made_by)
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
            places = [(row, *snapshot.locate(row)) for row in snapshot.rows()[:3].tolist()]
            texts = [segment.passage(local) for _, segment, local in places]
            agree(encoder, snapshot.vectors.take(np.array([row for row, *_ in places], np.int64)), texts)
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
