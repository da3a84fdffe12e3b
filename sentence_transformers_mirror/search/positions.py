"""Where the text of an id begins, in 8 bytes a row: an index of a hundred million texts has no room for a dictionary.

A key is the upper bits of a hash of the id and, below them, the row. Sorted keys are searched for the hash; what is
found is compared with the id that is stored in the row.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sentence_transformers_mirror.printable import quoted
from sentence_transformers_mirror.search.segments import Segment
from sentence_transformers_mirror.search.snapshot import Snapshot

_ROW = np.uint64(36)  # bits of a row; the other 28 are of the hash: of a hundred million ids one in three has company
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: integers in a row hash to themselves
_PIECE = 65_536


@dataclass(frozen=True)
class Positions:
    """The first row of the text of each id that was not removed. Never changed."""

    keys: np.ndarray  # sorted, shape (texts, with those that were removed), uint64
    snapshot: Snapshot

    @classmethod
    def of(cls, snapshot: Snapshot) -> Positions:
        keys, filled = np.empty(len(snapshot.removed), np.uint64), 0
        for start, segment in zip(snapshot.vectors.starts, snapshot.segments, strict=False):
            for made in _keys(segment, start):
                keys[filled : filled + len(made)] = made
                filled += len(made)
        keys = keys[:filled]  # fewer where texts are cut
        keys.sort()  # in place, where others want as much again
        return cls(keys, snapshot)

    def over(self, snapshot: Snapshot) -> Positions:
        """The same rows, of which some more are removed."""
        return replace(self, snapshot=snapshot)

    def grown(self, snapshot: Snapshot, added: Segment) -> Positions:
        """With the rows of a segment at the end of a snapshot."""
        start = len(snapshot.removed) - len(added)
        new = np.sort(np.concatenate([np.zeros(0, np.uint64), *_keys(added, start)]))
        return Positions(np.insert(self.keys, np.searchsorted(self.keys, new), new), snapshot)

    def find(self, ids: Sequence[object]) -> np.ndarray:
        """The row of each of some ids, int64; -1 where it is not there."""
        rows = np.full(len(ids), -1, np.int64)
        hashes = _hashes(ids)
        lows = np.searchsorted(self.keys, hashes << _ROW)
        highs = np.searchsorted(self.keys, (hashes << _ROW) | ((np.uint64(1) << _ROW) - np.uint64(1)), side="right")
        for number in np.flatnonzero(highs > lows).tolist():
            for key in self.keys[lows[number] : highs[number]].tolist():
                row = key & ((1 << int(_ROW)) - 1)
                if not self.snapshot.removed[row]:
                    segment, local = self.snapshot.locate(row)
                    if segment.id(local) == ids[number]:
                        rows[number] = row
        return rows

    def refuse(self, ids: Sequence[int | str]) -> None:
        """Refuse ids that are there already."""
        known = np.flatnonzero(self.find(ids) >= 0)
        if len(known):
            raise ValueError(
                f"The id {quoted(ids[known[0]])} is in the index already, and overwrite=True replaces it: make the "
                "ids different."
            )

    def __contains__(self, item: object) -> bool:
        return self.find([item])[0] >= 0

    def __getitem__(self, item: object) -> int:
        row = int(self.find([item])[0])
        if row < 0:
            raise KeyError(item)
        return row


def repeated(read: Callable[[], Iterable[int | str]], count: int) -> int | str | None:
    """The first of so many ids that was there before, if any: in 9 bytes an id, and read again where hashes meet."""
    found = map(hash, read())
    hashes = np.fromiter(found, np.int64, count)
    deque(found, maxlen=0)  # to the end, where a reader may complain
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[int | str] = set()
    for item in read() if suspects else ():
        if item in seen:
            return item
        if hash(item) in suspects:
            seen.add(item)
    return None


def _hashes(ids: Sequence[object]) -> np.ndarray:
    """28 bits of each."""
    return (np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64) * _MIX) >> _ROW


def _keys(segment: Segment, start: int) -> Iterator[np.ndarray]:
    """The keys of the texts of a segment, which begins at a row, in pieces."""
    ids, first = segment.ids(), 0
    while names := list(itertools.islice(ids, _PIECE)):
        rows = np.arange(first, first + len(names))
        keys = (_hashes(names) << _ROW) | (rows + start).astype(np.uint64)
        yield keys[segment.numbers[rows] == 0] if segment.cut else keys
        first += len(names)
