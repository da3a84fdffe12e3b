"""What is wrong with an index on disk."""

from __future__ import annotations


class BrokenIndexError(ValueError):
    """A folder holds no index, or one that is damaged or of a newer format. The message names the file."""


class ConflictError(ValueError):
    """Another program holds the folder for writing or changed the index in it, or another index lies there."""
