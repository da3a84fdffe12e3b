"""What is wrong with an index on disk."""

from __future__ import annotations


class BrokenIndexError(ValueError):
    """A folder holds no index, or one that is damaged or of a newer format. The message names the file.

    Example:
        >>> from sentence_transformers_mirror import SearchIndex
        >>> from sentence_transformers_mirror.errors import BrokenIndexError
        >>> try:
        ...     SearchIndex.load("no-such-folder")
        ... except BrokenIndexError:
        ...     print("there is no index")
        there is no index
    """


class ConflictError(ValueError):
    """Another program holds the folder for writing or changed the index in it, or another index lies there.

    Example:
        >>> from sentence_transformers_mirror import SearchIndex, embedded_model_path
        >>> from sentence_transformers_mirror.errors import ConflictError
        >>> SearchIndex.build(embedded_model_path(), ["a text"]).save("an-index")
        >>> try:
        ...     SearchIndex.build(embedded_model_path(), ["another text"]).save("an-index")
        ... except ConflictError:
        ...     print("another index lies there")
        another index lies there
    """
