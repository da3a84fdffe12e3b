"""The state of an index, which threads share, and what can be read off it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.search.choosing import Choice
from sentence_transformers_mirror.search.describe import describe
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.saving import KeptStructure
from sentence_transformers_mirror.search.snapshot import Snapshot
from sentence_transformers_mirror.search.state import Identity, State, identity

if TYPE_CHECKING:
    from typing_extensions import Self


class Base:
    """An index as it is at this moment: one frozen state, which is replaced whole."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        dimension: int,
        choice: Choice,
        encoder: Encoder | None = None,
        model: Identity | None = None,
    ) -> None:
        """Use ``build``, ``from_vectors``, ``load`` or ``open``."""
        # Taken once by whoever reads it, and replaced once by whoever changes it.
        self._state = State(snapshot, dimension, encoder, identity(encoder, model))
        self._choice = choice
        # The folders it lies in, each with the tags that a save of this index may have left there.
        self._homes: dict[str, tuple[str, ...]] = {}
        self._structure_file: KeptStructure | None = None
        self._writing = threading.RLock()
        _indexes.add(self)

    @property
    def _snapshot(self) -> Snapshot:
        return self._state.snapshot

    @property
    def _row_of(self) -> dict[int | str, int]:
        """The row of each id, for who looks at an index from outside; `State.positions` finds them in less memory."""
        state = self._state
        ids = list(state.snapshot.ids())
        return dict(zip(ids, state.positions.find(ids).tolist(), strict=True))

    def __copy__(self) -> Self:
        """An index of its own over the same rows, which never change; the model is shared."""
        state = self._state
        copied = type(self)(
            state.snapshot, dimension=state.dimension, choice=self._choice, encoder=state.encoder, model=state.model
        )
        copied._homes, copied._structure_file = dict(self._homes), self._structure_file
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple:
        raise TypeError("An index is not pickled: save it into a folder, and open that where it is wanted.")

    def __len__(self) -> int:
        """Number of texts."""
        return self._snapshot.count

    def __contains__(self, item: object) -> bool:
        """Whether an id is in the index."""
        item = plain(item)
        return isinstance(item, (int, str)) and not isinstance(item, bool) and item in self._state.positions

    def __iter__(self) -> Iterator[int | str]:
        """The ids, in the order in which the texts came."""
        return self._snapshot.ids()

    def __getitem__(self, item: int | str) -> tuple[str, dict[str, Any]]:
        """Text and metadata of an id.

        Raises:
            KeyError: If it is not in the index.
        """
        state = self._state
        segment, local = state.snapshot.locate(state.positions[plain(item)])
        return segment.text(local), segment.metadata(local)

    def facts(self) -> dict[str, Any]:
        """What there is to know about the index, as numbers, strings and None; `describe` puts it into words."""
        state = self._state
        snapshot = state.snapshot
        return {
            "texts": snapshot.count,
            "removed": len(snapshot.removed) - snapshot.size,
            "segments": len(snapshot.segments),
            "dimension": state.dimension,
            "vector_bytes": 4 * len(snapshot.removed) * state.dimension,
            **asdict(state.model),
            "choice": asdict(self._choice),
            "structure": {} if snapshot.report is None else snapshot.report.as_dict(),
            "calibration": None if snapshot.calibration is None else snapshot.calibration.as_dict(),
            "language": snapshot.language,
            "passages": None if snapshot.passages is None else {"tokens": snapshot.passages, "rows": snapshot.size},
        }

    def describe(self) -> str:
        """What the index holds, how it searches and why, and what was measured, in a few lines."""
        return describe(self._state, self._choice)


_indexes: weakref.WeakSet[Base] = weakref.WeakSet()


def _renew_locks() -> None:
    """In a forked process: the thread that held a lock is not there any more."""
    for index in list(_indexes):
        index._writing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
