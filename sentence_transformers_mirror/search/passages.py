"""Long documents: cut into passages at the ends of sentences."""

from __future__ import annotations

import bisect
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentence_transformers_mirror import embedding
from sentence_transformers_mirror.printable import quoted

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Span = tuple[int, int]  # where a passage begins and ends in its text, in characters

_OVERLAP = 8  # at most so many parts of a passage are the end of the one before it, so that an answer is whole in one
_AT_A_TIME = 32  # texts


@dataclass(frozen=True)
class Cutter:
    """Cuts texts into passages; a ValueError if the model does not read so long ones, or its tokenizer cannot tell."""

    model: SentenceTransformer  # whose tokens are counted
    tokens: int  # in a passage at most

    def __post_init__(self) -> None:
        if not _tells_places(self.model):
            raise ValueError(
                "The tokenizer of this model does not tell where its tokens are, so texts cannot be cut: leave out "
                "passages, or take a model with a fast tokenizer."
            )
        most = reads(self.model)
        if most is not None and self.tokens > most:
            raise ValueError(
                f"passages is the number of tokens in one, and {self.tokens} are more than the {most} that the model "
                "reads: pass fewer."
            )

    def spans(self, texts: list[str]) -> list[list[Span]]:
        """The passages of each text, at least one of each.

        A passage is as many sentences as fit, and begins with the last ones of the passage before it, if these are an
        eighth of it at most. A sentence that is longer than a passage is cut between two tokens.
        """
        from sentencex import segment

        return [
            _packed(_pieces(text, segment("en", text), starts, self.tokens), self.tokens) or [(0, len(text))]
            for text, starts in zip(texts, _token_starts(self.model, texts), strict=True)
        ]


def reads(model: SentenceTransformer) -> int | None:
    """The tokens of a text that a model reads, those that it adds itself left out; None if there is no limit."""
    limit = model.max_seq_length
    if limit is None or math.isinf(limit) or not _tells_places(model):
        return None
    with embedding.ONE_AT_A_TIME:
        return limit - len(model.tokenizer("")["input_ids"])


def _tells_places(model: SentenceTransformer) -> bool:
    """Whether its tokenizer can tell where tokens are; those written in Python and of static embeddings cannot."""
    return getattr(getattr(model, "tokenizer", None), "is_fast", False)


def warn_of_long(model: SentenceTransformer, texts: Sequence[str], before: int = 0, cure: str = "build with") -> bool:
    """Warn if the longest of some texts, which came after others, is longer than the model reads; whether it is."""
    most = reads(model)
    longest = max(texts, key=len, default="")
    if most is None or len(longest) <= most:  # a token has at least a character
        return False
    (starts,) = _token_starts(model, [longest])
    if len(starts) <= most:
        return False
    logger.warning(
        f"Text {before + texts.index(longest) + 1:,}, {quoted(longest)}, has {len(starts):,} tokens and the model "
        f"reads {most} of them, so what comes later in it is not found by meaning: {cure} passages={min(most, 200)}."
    )
    return True


def _token_starts(model: SentenceTransformer, texts: list[str]) -> list[list[int]]:
    """Where each token of each text begins, in characters."""
    starts: list[list[int]] = []
    for first in range(0, len(texts), _AT_A_TIME):  # a few, since searches wait meanwhile
        with embedding.ONE_AT_A_TIME:  # without truncation, which is a setting that all threads share
            found = model.tokenizer(
                texts[first : first + _AT_A_TIME],
                add_special_tokens=False,
                return_offsets_mapping=True,
                truncation=False,
                padding=False,
                verbose=False,
            )
        starts += [[start for start, _ in offsets] for offsets in found["offset_mapping"]]
    return starts


def _pieces(text: str, sentences: Sequence[str], starts: list[int], most: int) -> list[tuple[int, int, int]]:
    """Sentences, and parts of those that are too long: begin, end and number of tokens, none of them blank."""
    pieces, position = [], 0
    for sentence in sentences:
        begin = text.find(sentence, position)
        position = begin + len(sentence)
        inside = starts[bisect.bisect_left(starts, begin) : bisect.bisect_left(starts, position)]
        cuts = [begin, *inside[most::most], position]
        for number, (low, high) in enumerate(itertools.pairwise(cuts)):
            part = text[low:high]
            if part.strip():
                low += len(part) - len(part.lstrip())
                pieces.append((low, low + len(part.strip()), len(inside[number * most : (number + 1) * most])))
    return pieces


def _packed(pieces: list[tuple[int, int, int]], most: int) -> list[Span]:
    spans, start = [], 0
    while start < len(pieces):
        first, end, size = start, start + 1, pieces[start][2]
        while end < len(pieces) and size + pieces[end][2] <= most:
            size += pieces[end][2]
            end += 1
        spans.append((pieces[first][0], pieces[end - 1][1]))
        if end == len(pieces):
            break
        # Back over what overlaps, as long as the next piece still fits beside it.
        start, room = end, min(most // _OVERLAP, most - pieces[end][2])
        while start - 1 > first and pieces[start - 1][2] <= room:
            start -= 1
            room -= pieces[start][2]
    return spans
