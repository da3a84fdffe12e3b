"""What an index is at one moment, and what it is after a change.

Readers take a state once and writers replace it whole, so that a search never sees vectors of one model and the
encoder of another, and a change that is broken off has not happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.choosing import Choice, choose
from sentence_transformers_mirror.search.encoder import Encoder
from sentence_transformers_mirror.search.entries import Window, check_id, check_new
from sentence_transformers_mirror.search.positions import Positions
from sentence_transformers_mirror.search.reports import Calibration
from sentence_transformers_mirror.search.segments import Segment, merged
from sentence_transformers_mirror.search.snapshot import Snapshot, compacted


@dataclass(frozen=True)
class Identity:
    """What tells a model from others, the name or path that it was loaded from, and the dimensions that were kept."""

    fingerprint: str | None = None
    model: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class State:
    """Never changed.

    Args:
        snapshot: The rows and the structure over them.
        dimension: The dimension of the vectors.
        encoder: The model that made them, None where the index was loaded without it.
        model: Which one made them, kept where there is no encoder.
    """

    snapshot: Snapshot
    dimension: int
    encoder: Encoder | None
    model: Identity

    @cached_property
    def positions(self) -> Positions:
        """The first row of the text of each id."""
        return Positions.of(self.snapshot)

    def calibrated(self, calibration: Calibration) -> State:
        """The same with another calibration."""
        snapshot = replace(self.snapshot, calibration=calibration)
        return _placed(replace(self, snapshot=snapshot), vars(self).get("positions"))

    def rows_of(self, ids: Iterable[int | str]) -> list[int]:
        """The first rows of the texts of some ids.

        Raises:
            TypeError: If an id is neither int nor str.
            ValueError: If one is not in the index, or is given twice.
        """
        asked, seen = [check_id(item) for item in ids], set()
        rows = self.positions.find(asked).tolist()
        for item, row in zip(asked, rows, strict=True):
            if row < 0:
                raise ValueError(f"The id {quoted(item)} is not in the index: iterate over the index to see its ids.")
            if row in seen:
                raise ValueError(f"The id {quoted(item)} is given twice: give it once.")
            seen.add(row)
        return rows


def identity(encoder: Encoder | None, known: Identity | None = None) -> Identity:
    """What an index keeps of its model; of an encoder without a name the name that is known."""
    known = known or Identity()
    return known if encoder is None else Identity(encoder.fingerprint, encoder.name or known.model, encoder.dimensions)


def without(state: State, rows: list[int]) -> State:
    """The state without the texts that begin at some rows."""
    snapshot = state.snapshot
    removed = snapshot.removed.copy()
    removed[snapshot.whole(rows)] = True
    return _placed(replace(state, snapshot=replace(snapshot, removed=removed)), state.positions)


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
            if (state.positions.find(mine) >= 0).any():
                raise BrokenIndexError(
                    f"The index counts its texts from {following} on, and has texts of such numbers: its manifest is "
                    "damaged; build the index again."
                )
        following = max([following, *(item + 1 for item in mine if isinstance(item, int))])
        names += mine
        tables.append(window.table(mine))
    check_new(names, set())
    state.positions.refuse(names)
    if not names:
        return state, names
    added = Segment(np.concatenate([v for _, v in read]), pa.concat_tables(tables))
    segments = [*snapshot.segments, added]
    # As in a log-structured merge tree: few segments, and no row is copied more than log(rows) times.
    while len(segments) > 1 and 2 * len(segments[-1]) >= len(segments[-2]):
        segments[-2:] = [merged(segments[-2:])]
    snapshot = replace(
        snapshot,
        segments=tuple(segments),
        removed=np.concatenate([snapshot.removed, np.zeros(len(added), bool)]),
        next_id=following,
    )
    return _placed(replace(state, snapshot=snapshot), state.positions.grown(snapshot, added)), names


def settled(state: State, choice: Choice) -> State:
    """After a change: removed rows are dropped once they are a quarter, and the structure fits what is there now."""
    snapshot, positions = state.snapshot, vars(state).get("positions")
    rows, size = len(snapshot.removed), snapshot.size
    if 4 * (rows - size) > rows:
        segments = (compacted(snapshot),) if size else ()
        snapshot = replace(snapshot, segments=segments, removed=np.zeros(size, bool), structure=None, report=None)
        positions = None
    # Rows that came later are scanned; a structure is made anew once they are a quarter of it.
    covered = 0 if snapshot.report is None else snapshot.report.rows
    if len(snapshot.removed) and 4 * len(snapshot.removed) > 5 * covered:
        structure, report = choose(snapshot.vectors, choice, snapshot.alive)
        snapshot = replace(snapshot, structure=structure, report=report)
    return _placed(replace(state, snapshot=snapshot), positions)


def _placed(state: State, positions: Positions | None) -> State:
    """A new state with the rows of its ids, which take long to read, where they are known."""
    if positions is not None:
        vars(state)["positions"] = positions.over(state.snapshot)
    return state
