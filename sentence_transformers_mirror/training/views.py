"""Input masking: a second view of a text, with a short span of it hidden; what `encode` sees never changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class TokenSpanMask(nn.Module):
    """Hide one contiguous span of content tokens in each row.

    The span covers about ``share`` of the characters of its text and ends at the word boundary nearest to that, so
    that whole words are hidden where words are of that size. Special tokens, padding and prompt tokens are never
    hidden, and neither is a whole text. Each hidden token becomes the mask token; for a tokenizer that has none (most
    decoders, T5) the span is deleted. Random numbers come from torch's generator on the device of the tokens.

    The paper (arXiv 2104.08027, section 2.1 and its code) replaces 5 characters of every sentence of at least 30,
    9.8% of the characters of the sentences it masks; a mask of words of that size works on ids and needs no strings.

    Args:
        share: Part of a text's characters to hide, in (0, 1).
        min_length: Texts with fewer characters are left alone. Byte-level tokenizers count bytes.

    Raises:
        ValueError: If share is outside (0, 1).

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import TokenSpanMask, embedded_model_path
        >>> model = SentenceTransformer(embedded_model_path())
        >>> features = model.preprocess(["The parliament postponed the budget until next year."])
        >>> hidden = TokenSpanMask(share=0.1).bind(model.tokenizer).spans(features)
        >>> bool(hidden.any()), bool(hidden.all())
        (True, False)
    """

    # What `bind` sets.
    token_length: Tensor
    starts_word: Tensor
    is_special: Tensor
    mask_token_id: int | None
    left_padding: bool

    def __init__(self, share: float = 0.1, min_length: int = 30) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, not {share}; 0.1 hides as much as the paper's mask.")
        self.share = share
        self.min_length = min_length

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> TokenSpanMask:
        """A copy that knows a tokenizer's vocabulary: which tokens are special, begin a word, and how long they are.

        Raises:
            ValueError: If there is no text tokenizer to know.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                "Masking needs a transformer with a text tokenizer; static embeddings, image and audio models cannot "
                "be mirror-tuned."
            )
        bound = type(self)(**self.get_config_dict())
        vocabulary = tokenizer.get_vocab()
        size, specials = max(vocabulary.values()) + 1, set(tokenizer.all_special_ids)
        length, starts = [0] * size, [True] * size
        # "##" continues a word, "\u0120" and "\u2581" begin one; a vocabulary may know none of them.
        counts = {one: sum(token.startswith(one) for token in vocabulary) for one in ("##", "\u0120", "\u2581")}
        marker = max(counts, key=counts.__getitem__) if max(counts.values()) > 1 else None
        for token, index in vocabulary.items():
            if marker == "##":
                starts[index] = not token.startswith("##")
                piece = token.removeprefix("##")
                # The space before the word, which WordPiece drops; scripts written without spaces have none.
                length[index] = len(piece) + (starts[index] and piece[:1].isalnum() and piece < "\u2e80")
            else:
                starts[index] = marker is None or token.startswith(marker)
                # A byte of what is in no vocabulary, as SentencePiece writes it.
                length[index] = 1 if _BYTE.fullmatch(token) else len(token)
        bound.register_buffer("token_length", torch.tensor(length, dtype=torch.float32), persistent=False)
        bound.register_buffer("starts_word", torch.tensor(starts), persistent=False)
        bound.register_buffer("is_special", torch.tensor([i in specials for i in range(size)]), persistent=False)
        bound.mask_token_id = tokenizer.mask_token_id
        bound.left_padding = tokenizer.padding_side == "left"
        return bound

    def forward(self, features: dict[str, Any], generator: torch.Generator | None = None) -> dict[str, Any]:
        """The masked view of a batch of token features.

        Args:
            features: ``input_ids`` and ``attention_mask``, shape (rows, tokens), and what else belongs to the batch;
                not changed.
            generator: Source of the random numbers, on the device of the tokens; torch's default by default.

        Returns:
            New features of the same shapes.
        """
        span = self.spans(features, generator)
        if self.mask_token_id is not None:
            return {**features, "input_ids": features["input_ids"].masked_fill(span, self.mask_token_id)}
        kept = ~span & features["attention_mask"].bool()
        # A stable sort moves what is deleted to the padded side and keeps the order of the rest.
        order = (kept if self.left_padding else ~kept).long().argsort(dim=1, stable=True)
        deleted = {
            key: value.gather(1, order) if isinstance(value, Tensor) and value.shape == span.shape else value
            for key, value in features.items()
        }
        return {**deleted, "attention_mask": kept.gather(1, order).to(features["attention_mask"].dtype)}

    def spans(self, features: dict[str, Any], generator: torch.Generator | None = None) -> Tensor:
        """Which tokens to hide, a boolean (rows, tokens); see ``forward``."""
        ids, attention = features["input_ids"], features["attention_mask"].bool()
        known = ids.clamp(max=len(self.is_special) - 1)  # tokens added after binding count as the last one
        content = attention & ~self.is_special.to(ids.device)[known]
        content &= attention.cumsum(1) > features.get("prompt_length", 0)
        count = content.cumsum(1)
        contents = count[:, -1:]
        length = self.token_length.to(ids.device)[known] * content
        starts = content & (self.starts_word.to(ids.device)[known] | ~nn.functional.pad(content[:, :-1], (1, 0)))

        end = length.cumsum(1)  # characters up to and including each token
        start = end - length
        total = end[:, -1:]
        target = self.share * total

        # Any content token may be drawn; its word is hidden from the beginning unless that is too far back.
        draw = torch.rand(len(ids), 1, generator=generator, device=ids.device) * contents
        drawn = ((count <= draw) & (count < contents)).sum(1, keepdim=True)
        position = torch.arange(ids.shape[1], device=ids.device)
        word = torch.where(starts & (position <= drawn), position, -1).amax(1, keepdim=True).clamp(min=0)
        too_far = start.gather(1, drawn) - start.gather(1, word) > target
        begin = torch.where(too_far, drawn, word)

        # The end whose distance from the target is least; an end inside a word counts as a target further away.
        closes = content & ~nn.functional.pad(content[:, 1:] & ~starts[:, 1:], (0, 1))
        distance = (end - start.gather(1, begin) - target).abs() + target * ~closes
        distance = distance.masked_fill(~content | (position < begin), torch.inf)
        finish = distance.argmin(1, keepdim=True)

        span = content & (position >= begin) & (position <= finish)
        return span & (total >= self.min_length) & (span.sum(1, keepdim=True) < contents)

    def get_config_dict(self) -> dict[str, Any]:
        return {"share": self.share, "min_length": self.min_length}


class CharSpanMask:
    """The paper's mask: ``span`` characters at a random place become the mask token (arXiv 2104.08027, section 2.1).

    Random numbers come from torch's default generator, which DataLoader workers seed per worker and epoch. The span
    drawn is the span hidden; the released code hides the first occurrence of its text.

    Args:
        tokenizer: The tokenizer whose mask token is written.
        span: Number of characters to hide; the paper uses 5 for sentences and 2 for phrases.
        min_length: Texts with fewer characters are left alone, as in the released code.

    Raises:
        ValueError: If the tokenizer has no mask token, or span is below 1 or not below min_length.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import CharSpanMask, embedded_model_path
        >>> model = SentenceTransformer(embedded_model_path())
        >>> masked = CharSpanMask(model.tokenizer)("The parliament postponed the budget until next year.")
        >>> "[MASK]" in masked
        True
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, span: int = 5, min_length: int = 30) -> None:
        if tokenizer.mask_token is None:
            raise ValueError("This tokenizer has no mask token; use TokenSpanMask(), which deletes the span instead.")
        if not 1 <= span < min_length:
            raise ValueError(f"span must be at least 1 and below min_length ({min_length}), not {span}.")
        self.mask_token = tokenizer.mask_token
        self.span = span
        self.min_length = min_length

    def __call__(self, text: str) -> str:
        if len(text) < self.min_length:
            return text
        start = int(torch.randint(len(text) - self.span + 1, ()))
        return f"{text[:start]} {self.mask_token} {text[start + self.span :]}"


def two_views(mask: Callable[[str], str]) -> Callable[[dict[str, list[str]]], dict[str, list[str]]]:
    """A transform for ``dataset.set_transform``: one text column becomes ``anchor`` and its masked ``positive``.

    Masks are drawn anew whenever a row is read, so that each epoch sees others. The transform can be pickled for
    DataLoader workers if the mask can.

    Args:
        mask: A function from a text to its masked view, such as ``CharSpanMask(model.tokenizer)``.

    Example:
        >>> from datasets import Dataset
        >>> from sentence_transformers_mirror import two_views
        >>> dataset = Dataset.from_dict({"text": ["a small text"]})
        >>> dataset.set_transform(two_views(lambda text: text.replace("small", "[MASK]")))
        >>> dataset[0]
        {'anchor': 'a small text', 'positive': 'a [MASK] text'}
    """
    return partial(_two_views, mask=mask)


def _two_views(batch: dict[str, list[str]], mask: Callable[[str], str]) -> dict[str, list[str]]:
    if len(batch) != 1:
        raise ValueError(f"two_views reads one text column, not {list(batch)}; use dataset.select_columns first.")
    (texts,) = batch.values()
    return {"anchor": texts, "positive": [mask(text) for text in texts]}
