"""What an index is at one moment, and what it is after a change.

Readers take a state once and writers replace it whole, so that a search never sees vectors of one model and the
encoder of another, and a change that is broken off has not happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.choosing import Choice, choose
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import Window, check_id, check_new
from sentence_transformers_mirror.search.segments import Segment, merged
from sentence_transformers_mirror.search.snapshot import Snapshot, compacted


@dataclass(frozen=True)
class State:
    """Never changed.

    Args:
        snapshot: The rows and the structure over them.
        dimension: The dimension of the vectors.
        encoder: The model that made them, None where the index was loaded without it.
        model: ``fingerprint``, ``model`` (its name) and ``dimensions``, kept where there is no encoder.
    """

    snapshot: Snapshot
    dimension: int
    encoder: Encoder | None
    model: dict[str, Any]

    @cached_property
    def positions(self) -> dict[int | str, int]:
        """The first row of the text of each id."""
        return self.snapshot.positions()

    def calibrated(self, calibration: dict[str, Any]) -> State:
        """The same with another calibration."""
        snapshot = replace(self.snapshot, calibration=calibration)
        return _placed(replace(self, snapshot=snapshot), vars(self).get("positions"))

    def rows_of(self, ids: Iterable[int | str]) -> list[int]:
        """The first rows of the texts of some ids.

        Raises:
            TypeError: If an id is neither int nor str.
            ValueError: If one is not in the index, or is given twice.
        """
        rows = {}
        for item in map(check_id, ids):
            if item not in self.positions:
                raise ValueError(f"The id {quoted(item)} is not in the index: iterate over the index to see its ids.")
            if item in rows:
                raise ValueError(f"The id {quoted(item)} is given twice: give it once.")
            rows[item] = self.positions[item]
        return list(rows.values())


def identity(encoder: Encoder | None, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an index keeps of its model; of an encoder without a name the name that is known."""
    known = known or {}
    if encoder is None:
        return {key: known.get(key) for key in ("fingerprint", "model", "dimensions")}
    return {
        "fingerprint": encoder.fingerprint,
        "model": encoder.name or known.get("model"),
        "dimensions": encoder.dimensions,
    }


def without(state: State, rows: list[int]) -> State:
    """The state without the texts that begin at some rows."""
    snapshot = state.snapshot
    removed = snapshot.removed.copy()
    removed[snapshot.whole(rows)] = True
    positions = dict(state.positions)
    for row in rows:
        segment, local = snapshot.locate(row)
        del positions[segment.id(local)]
    return _placed(replace(state, snapshot=replace(snapshot, removed=removed)), positions)


def appended(state: State, read: list[tuple[Window, np.ndarray]]) -> tuple[State, list[int | str]]:
    """The state with entries, cut where the index cuts texts, and their vectors at the end; and the ids of these.

    Raises:
        ValueError: If an id is there already.
    """
    snapshot = state.snapshot
    following = snapshot.next_id
    names: list[int | str] = []
    tables = []
    for window, _ in read:
        mine = window.ids
        if mine is None:
            mine = list(range(following, following + len(window.texts)))
            if any(item in state.positions for item in mine):
                raise BrokenIndexError(
                    f"The index counts its texts from {following} on, and has texts of such numbers: its manifest is "
                    "damaged; build the index again."
                )
        following = max([following, *(item + 1 for item in mine if isinstance(item, int))])
        names += mine
        tables.append(window.table(mine))
    check_new(names, set(), "there twice")
    check_new(names, state.positions, "in the index already, and overwrite=True replaces it")
    if not names:
        return state, names
    added = Segment(np.concatenate([v for _, v in read]), pa.concat_tables(tables))
    segments = [*snapshot.segments, added]
    # As in a log-structured merge tree: few segments, and no row is copied more than log(rows) times.
    while len(segments) > 1 and 2 * len(segments[-1]) >= len(segments[-2]):
        segments[-2:] = [merged(segments[-2:])]
    start = len(snapshot.removed)
    positions = dict(state.positions)
    positions.update(zip(names, (start + np.flatnonzero(added.numbers == 0)).tolist(), strict=True))
    snapshot = replace(
        snapshot,
        segments=tuple(segments),
        removed=np.concatenate([snapshot.removed, np.zeros(len(added), bool)]),
        next_id=following,
    )
    return _placed(replace(state, snapshot=snapshot), positions), names


def settled(state: State, choice: Choice) -> State:
    """After a change: removed rows are dropped once they are a quarter, and the structure fits what is there now."""
    snapshot, positions = state.snapshot, vars(state).get("positions")
    rows, size = len(snapshot.removed), snapshot.size
    if 4 * (rows - size) > rows:
        segments = (compacted(snapshot),) if size else ()
        snapshot = replace(snapshot, segments=segments, removed=np.zeros(size, bool), structure=None, report={})
        positions = None
    # Rows that came later are scanned; a structure is made anew once they are a quarter of it.
    if len(snapshot.removed) and 4 * len(snapshot.removed) > 5 * snapshot.report.get("rows", 0):
        structure, report = choose(snapshot.vectors, choice, snapshot.alive)
        snapshot = replace(snapshot, structure=structure, report=report)
    return _placed(replace(state, snapshot=snapshot), positions)


def _placed(state: State, positions: dict[int | str, int] | None) -> State:
    """A new state with the rows of its ids, which take long to read, where they are known."""
    if positions is not None:
        vars(state)["positions"] = positions
    return state
