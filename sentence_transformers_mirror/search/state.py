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
from sentence_transformers_mirror.search.segments import Segment, merged
from sentence_transformers_mirror.search.snapshot import Snapshot, compacted


@dataclass(frozen=True)
class Identity:
    """What tells a model from others, the name or path that it was loaded from, and the dimensions that were kept."""

    fingerprint: str | None = None
    model: str | None = None
    dimensions: int | None = None


def identity(encoder: Encoder | None, known: Identity | None = None) -> Identity:
    """What an index keeps of its model; of an encoder without a name the name that is known."""
    known = known or Identity()
    return known if encoder is None else Identity(encoder.fingerprint, encoder.name or known.model, encoder.dimensions)


@dataclass(frozen=True)
class State:
    """Never changed: a change gives another one."""

    snapshot: Snapshot
    dimension: int  # of the vectors
    encoder: Encoder | None  # the model that made them; None where the index was loaded without it
    model: Identity  # which one it was, known without an encoder, too
    choice: Choice

    @cached_property
    def positions(self) -> Positions:
        """The first row of the text of each id."""
        return Positions.of(self.snapshot)

    def rows_of(self, ids: Iterable[int | str]) -> list[int]:
        """The first rows of the texts of some ids, which must be there, each once."""
        asked, seen = [check_id(item) for item in ids], set()
        rows = self.positions.find(asked).tolist()
        for item, row in zip(asked, rows, strict=True):
            if row < 0:
                raise ValueError(f"The id {quoted(item)} is not in the index: iterate over the index to see its ids.")
            if row in seen:
                raise ValueError(f"The id {quoted(item)} is given twice: give it once.")
            seen.add(row)
        return rows

    def refuse_others(self, made: np.ndarray) -> None:
        """Refuse vectors that a model made, if they are of other dimensions than those of the index."""
        if made.shape[1] != self.dimension:
            raise ValueError(
                f"The model makes vectors of {made.shape[1]} dimensions and the index has {self.dimension}: load the "
                "index with the model that built it."
            )

    def over(self, snapshot: Snapshot) -> State:
        """With a snapshot whose rows are where they were; the positions, which take long to make, are kept."""
        state = replace(self, snapshot=snapshot)
        if "positions" in vars(self):
            vars(state)["positions"] = self.positions.over(snapshot)
        return state

    def without(self, rows: list[int]) -> State:
        """Without the texts that begin at some rows."""
        removed = self.snapshot.removed.copy()
        removed[self.snapshot.whole(rows)] = True
        return self.over(replace(self.snapshot, removed=removed))

    def appended(self, read: list[tuple[Window, np.ndarray]]) -> tuple[State, list[int | str]]:
        """With new entries, cut where the index cuts texts, and their vectors at the end; and the ids of these."""
        following = self.snapshot.next_id
        names: list[int | str] = []
        tables = []
        for window, _ in read:
            mine = window.ids
            if mine is None:
                mine = list(range(following, following + len(window.texts)))
                if (self.positions.find(mine) >= 0).any():
                    raise BrokenIndexError(
                        f"The index counts its texts from {following} on, and has texts of such numbers: its manifest "
                        "is damaged; build the index again."
                    )
            following = max([following, *(item + 1 for item in mine if isinstance(item, int))])
            names += mine
            tables.append(window.table(mine))
        check_new(names, set())
        self.positions.refuse(names)
        if not names:
            return self, names
        added = Segment(np.concatenate([vectors for _, vectors in read]), pa.concat_tables(tables))
        segments = [*self.snapshot.segments, added]
        # As in a log-structured merge tree: few segments, and no row is copied more than log(rows) times.
        while len(segments) > 1 and 2 * len(segments[-1]) >= len(segments[-2]):
            segments[-2:] = [merged(segments[-2:])]
        removed = np.concatenate([self.snapshot.removed, np.zeros(len(added), bool)])
        snapshot = replace(self.snapshot, segments=tuple(segments), removed=removed, next_id=following)
        state = replace(self, snapshot=snapshot)
        vars(state)["positions"] = self.positions.grown(snapshot, added)
        return state, names

    def settled(self) -> State:
        """Removed rows are dropped once they are a quarter, and the structure fits what is there now."""
        state, snapshot = self, self.snapshot
        rows, size = len(snapshot.removed), snapshot.size
        if 4 * (rows - size) > rows:
            segments = (compacted(snapshot),) if size else ()
            snapshot = replace(snapshot, segments=segments, removed=np.zeros(size, bool), structure=None, report=None)
            state = replace(self, snapshot=snapshot)
        # Rows that came later are scanned; a structure is made anew once they are a quarter of it.
        covered = 0 if snapshot.report is None else snapshot.report.rows
        if len(snapshot.removed) and 4 * len(snapshot.removed) > 5 * covered:
            structure, report = choose(snapshot.vectors, self.choice, snapshot.alive)
            state = state.over(replace(snapshot, structure=structure, report=report))
        return state
