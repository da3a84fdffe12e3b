"""Plain text in, a tokenizer and a stream of token ids out."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_OPEN = {".xz": lzma.open, ".gz": gzip.open}


def paragraphs(path: Path) -> Iterator[str]:
    """The lines of a text file that are not blank, also compressed with xz or gzip."""
    return filter(None, _lines(path))


def documents(path: Path) -> Iterator[tuple[str, str]]:
    """Title and text of each document, which blank lines part; a question that a document begins with is its title."""
    for blank, lines in groupby(_lines(path), key="".__eq__):
        if not blank:
            first, *rest = lines
            yield (first, " ".join(rest)) if rest and first.endswith("?") else ("", " ".join([first, *rest]))


def _lines(path: Path) -> Iterator[str]:
    with _OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        yield from map(str.strip, file)


def train_tokenizer(path: Path, size: int, characters: int) -> PreTrainedTokenizerFast:
    """An uncased WordPiece tokenizer of a given vocabulary, in which the most frequent characters are."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"], max_input_chars_per_word=60))
    # Accents stay: some scripts write their vowels so.
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # Rare characters of other scripts are not worth a place in a small vocabulary.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL.values()), limit_alphabet=characters, show_progress=False
    )
    tokenizer.train_from_iterator(paragraphs(path), trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (SPECIAL["cls"], SPECIAL["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ids
    )
    names = {f"{name}_token": token for name, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def token_stream(path: Path, tokenizer: PreTrainedTokenizerFast, batch: int = 32_768) -> np.ndarray:
    """Ids of all paragraphs, each closed by [SEP], in one row, of 16 bits a token where these are enough.

    Args:
        path: Text as `paragraphs` reads it.
        tokenizer: Any fast one.
        batch: Paragraphs at a time, which the processor's cores share.
    """
    found = []
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    texts = paragraphs(path)
    while some := list(islice(texts, batch)):
        # Ids alone: attention masks and token types of a corpus take longer than its tokens.
        for encoding in tokenizer.backend_tokenizer.encode_batch_fast(some, add_special_tokens=False):
            found.append(np.array([*encoding.ids, tokenizer.sep_token_id], dtype))
    return np.concatenate(found)
