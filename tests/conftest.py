"""Tiny random models for mechanics, the embedded model for quality; no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    T5Config,
    T5EncoderModel,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog while the cat is looking on.",
    "A man is playing a guitar on the stage of a crowded hall.",
    "Two dogs are running along the beach in the late afternoon sun.",
    "Short one.",
    "The parliament voted on Tuesday to postpone the budget until next year.",
    "She opened the window because the room had become unbearably hot.",
    "Open a file for writing and truncate it first.",
    "Return the absolute value of the argument, which may be an integer or a float.",
    "Heavy rain is expected in the north, with occasional thunderstorms towards the evening.",
    "He had never seen so many people in one place before that extraordinary night.",
    "Yes.",
    "Some children are kicking a ball against the wall of an old brick building.",
    "Antidisestablishmentarianism is a word that hardly anybody uses outside of spelling contests.",
    "The company reported lower profits than analysts had anticipated for the third quarter.",
    "A woman slices a tomato into thin pieces with a very sharp kitchen knife.",
    "Compute the difference of two sets and return it as a new set.",
]


def _special(tokenizer: Tokenizer, begin: str, end: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    _special(tokenizer, "[CLS]", "[SEP]")
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}, model_max_length=64
    )


def byte_bpe_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    _special(tokenizer, "<s>", "</s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
    )


def unigram_tokenizer(**changes: object) -> PreTrainedTokenizerFast:
    """Without a mask token, like T5's and most decoders'."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    options = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 64, **changes}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def _save(folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _bert(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    return BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL))


def _modernbert(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "cls", "sep", "pad")}
    return ModernBertModel(ModernBertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SMALL, **ids))


def _mpnet(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    return MPNetModel(MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=66, **SMALL))


def _t5(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes))


def _qwen2(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    return Qwen2Model(
        Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=64, **SMALL)
    )


# Name: (architecture, tokenizer). ModernBERT has dropout 0, T5 and Qwen2 no mask token, Qwen2 left padding.
ARCHITECTURES: dict[str, tuple[Callable, Callable]] = {
    "bert": (_bert, wordpiece_tokenizer),
    "modernbert": (_modernbert, byte_bpe_tokenizer),
    "mpnet": (_mpnet, wordpiece_tokenizer),
    "t5": (_t5, unigram_tokenizer),
    "qwen2": (_qwen2, lambda: unigram_tokenizer(padding_side="left")),
}


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SentenceTransformer]:
    """A function from a name in ARCHITECTURES to a fresh, tiny, random SentenceTransformer with mean pooling."""
    made: dict[str, SentenceTransformer] = {}

    def make(name: str) -> SentenceTransformer:
        if name not in made:
            build, make_tokenizer = ARCHITECTURES[name]
            tokenizer = make_tokenizer()
            torch.manual_seed(0)
            folder = _save(tmp_path_factory.mktemp(name), build(tokenizer), tokenizer)
            made[name] = SentenceTransformer(folder, device="cpu")
        return deepcopy(made[name])

    return make


@pytest.fixture
def tiny_model(make_model: Callable[[str], SentenceTransformer]) -> SentenceTransformer:
    return make_model("bert")


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of labelled sets, named by ST_MIRROR_DATA; tests that read it are skipped where it is absent."""
    folder = Path(os.environ.get("ST_MIRROR_DATA", "absent"))
    if not folder.is_dir():
        pytest.skip("needs labelled data: set ST_MIRROR_DATA to its folder")
    return folder
