"""Two views of a document that teach an encoder what belongs together, which is what a search asks for.

A sentence against the rest is the inverse cloze task (arXiv 1906.00300, section 5), independent crops come from
Contriever (arXiv 2112.09118, section 3), titles beside crops from AugTriever (arXiv 2212.08841, section 3.1).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import chain, compress

from sentence_transformers_mirror.texts.sentences import TITLES, split_title

# Words; in scripts that are written without spaces each character is one.
_PIECE = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]\s*|[^\s\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+\s*"
)
_WINDOW = 192  # words of a document that an epoch looks at, about 256 tokens
_CHARACTERS = 12 * _WINDOW  # which hold so many in any language
_ANCHOR = 0.05, 0.5  # least and largest part of the window that a crop takes (Contriever)
_POSITIVE = 0.3, 0.9  # and one that is to be found
_LEAST = 4  # words of a crop
_QUERY = 24  # words of an anchor at most, about 32 tokens: questions are short, and what they ask for is not
_LEFT_IN = 0.1  # share of the sentences that stay in the text around them (inverse cloze task)


@dataclass(frozen=True)
class DocumentViews:
    """A transform for ``dataset.set_transform``: documents become pairs of ``anchor`` and ``positive``.

    Of each document, whenever it is read, one of these at random:

    - its title and a crop of 30 to 90% of its body, where it has a title, in a share ``titles`` of cases;
    - a sentence and the rest of a window of 192 words, in a share ``sentences`` of the others, where there are three;
    - two crops of the window, drawn independently: of 5 to 50% and at most 24 words, and of 30 to 90%; both of at
      least 4 words;
    - the window itself, twice, where it has fewer than 8 words: dropout alone then tells the two views apart.

    The sentence is never the first of its document: a first sentence against the rest is what the guard of
    `mirror_tune` and `compare` judge by, and a judge must not ask what was taught; so a window of two sentences has no
    such pair either. Crops lie inside one document; the two of a pair begin or end at different words, and share a
    word where they make up the window. Of all but titles and the window itself each word is left out with a
    probability, but never all. A longer document shows another window each time. Random numbers come from
    torch's default generator, which DataLoader workers seed for each worker and epoch. The transform can be pickled.

    Args:
        titles: Share of the documents with a title that are asked by it, in [0, 1]. A title that is all of its body is
            none, and a body that begins with its title loses it first.
        sentences: Share of the others that are asked by a sentence, in [0, 1].
        deleted: Probability to leave out a word, in [0, 1).
        language: The language of the texts, an ISO 639-1 code, by which sentences are found.

    Raises:
        ValueError: If titles, sentences or deleted is out of range.

    Example:
        >>> from datasets import Dataset
        >>> from sentence_transformers_mirror import DocumentViews
        >>> documents = {"title": ["Budget"], "text": ["The parliament voted on Tuesday. It postponed the budget."]}
        >>> dataset = Dataset.from_dict(documents)
        >>> dataset.set_transform(DocumentViews(titles=1.0))
        >>> dataset[0]["anchor"], sorted(dataset[0])
        ('Budget', ['anchor', 'label', 'positive'])
    """

    titles: float = 0.4
    sentences: float = 0.5
    deleted: float = 0.1
    language: str = "en"

    def __post_init__(self) -> None:
        for name in ("titles", "sentences"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie between 0 and 1, not {getattr(self, name)}.")
        if not 0 <= self.deleted < 1:
            raise ValueError(f"deleted must be at least 0 and below 1, not {self.deleted}; 0.1 is usual.")

    @property
    def teaches(self) -> frozenset[str]:
        """Structures, as `evidence.parts.Parts` names them, that these pairs have: a judge must ask by another."""
        return frozenset({TITLES} if self.titles else ())

    def __call__(self, batch: dict[str, list[str]]) -> dict[str, list]:
        """Views of some documents.

        Args:
            batch: ``text``, and ``title`` where there are titles (empty or None where a document has none).

        Returns:
            ``anchor`` and ``positive``, strings, and ``label``, integers of 64 bits that are equal for equal
            documents: ``MirrorLoss(model, labels_are_ids=True)`` takes them for no negatives of each other.

        Raises:
            ValueError: If there is no column ``text``.
        """
        if "text" not in batch:
            raise ValueError(f"DocumentViews reads the columns 'text' and 'title', not {list(batch)}; rename yours.")
        import torch  # not before it is needed: recipes are read by the command line, too

        texts = batch["text"]
        titles = [title or "" for title in batch.get("title", [""] * len(texts))]
        draws = torch.rand(len(texts), 7, dtype=torch.float64).tolist()
        pairs = [self._pair(*one) for one in zip(titles, texts, draws, strict=True)]
        sides = [side for pair in pairs for side in pair]
        kept = iter((torch.rand(sum(len(pieces) for pieces, _ in sides)) >= self.deleted).tolist())
        made = []
        for pieces, thinned in sides:
            left = list(compress(pieces, kept))  # takes as many of them as there are pieces
            made.append("".join(left if thinned and left else pieces).strip())
        labels = [document_id(title, text) for title, text in zip(titles, texts, strict=True)]
        return {"anchor": made[::2], "positive": made[1::2], "label": labels}

    def _pair(self, title: str, text: str, draw: list[float]) -> list[tuple[list[str], bool]]:
        """Pieces of either side, and whether some of them may be left out."""
        title, body = split_title(title, text)
        window = _window(body, draw[0])
        if title and draw[1] < self.titles:
            begin, end = _crop(len(window), _POSITIVE, draw[2], draw[3])
            return [(_PIECE.findall(title), False), (window[begin:end], True)]
        if draw[6] < self.sentences and (sides := self._sentence_and_rest("".join(window), draw[2], draw[3])):
            return sides
        if len(window) < 2 * _LEAST:
            return [(window, False)] * 2
        anchor = _crop(len(window), _ANCHOR, draw[2], draw[3], _QUERY)
        positive = _crop(len(window), _POSITIVE, draw[4], draw[5])
        if anchor == positive:  # moved by a word, for which there is room
            begin, end = positive
            positive = (begin + 1, end + 1) if end < len(window) else (begin - 1, end - 1)
        # Crops that make up the window could be its first sentence and the rest, which judges ask: they share a word.
        if (*anchor, *positive) == (0, positive[0], anchor[1], len(window)):
            positive = (positive[0] - 1, positive[1])
        elif (*positive, *anchor) == (0, anchor[0], positive[1], len(window)):
            positive = (positive[0], positive[1] + 1)
        return [(window[begin:end], True) for begin, end in (anchor, positive)]

    def _sentence_and_rest(self, text: str, place: float, left_in: float) -> list[tuple[list[str], bool]]:
        """Pieces of a sentence, not the first, and of the text around it; none where there are not three."""
        from sentencex import segment

        sentences = [_PIECE.findall(sentence) for sentence in segment(self.language, text)]
        candidates = [number for number, pieces in enumerate(sentences) if number and len(pieces) >= _LEAST]
        if not candidates or len(sentences) < 3:  # the first against the rest, backwards
            return []
        chosen = candidates[int(place * len(candidates))]
        rest = [pieces for number, pieces in enumerate(sentences) if number != chosen or left_in < _LEFT_IN]
        return [(sentences[chosen], True), (list(chain.from_iterable(rest)), True)]


def document_id(title: str, text: str) -> int:
    """A hash of 64 bits, the same in every process and on every machine."""
    digest = hashlib.blake2b(f"{title}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _window(text: str, draw: float) -> list[str]:
    """At most 192 words in a row, from a place that ``draw``, in [0, 1), decides on."""
    if len(text) <= _CHARACTERS:
        pieces = _PIECE.findall(text)
        begin = int(draw * (len(pieces) - _WINDOW + 1)) if len(pieces) > _WINDOW else 0
        return pieces[begin : begin + _WINDOW]
    # Of a long text only this much is looked at, however long it is; a word that is cut at the beginning is left out.
    begin = int(draw * (len(text) - _CHARACTERS + 1))
    pieces = _PIECE.findall(text, begin, begin + _CHARACTERS)
    return pieces[1 if begin and len(pieces) > 1 else 0 :][:_WINDOW]


def _crop(words: int, share: tuple[float, float], length: float, place: float, most: int = _WINDOW) -> tuple[int, int]:
    """First and last word of a crop, from draws in [0, 1)."""
    size = min(max(_LEAST, round(words * (share[0] + length * (share[1] - share[0])))), words, most)
    begin = int(place * (words - size + 1))
    return begin, begin + size
