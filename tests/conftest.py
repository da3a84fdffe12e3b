"""Tiny random models for mechanics, the embedded model for quality; no network."""

from __future__ import annotations

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers whose threads wait for each other's on two cores are slower than one.
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
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

OTHER_LANGUAGES = {
    "Arabic": [
        "كان الطقس جميلا في المدينة القديمة قرب البحر صباح يوم الجمعة.",
        "قرأت الطالبة كتابا طويلا عن تاريخ العلوم في المكتبة العامة.",
        "نعم.",
    ],
    "Chinese": [
        "昨天晚上我们在河边的一家小餐馆里吃了晚饭,然后沿着安静的街道慢慢走回家,路上看到了许多美丽的星星。",
        "这位年轻的科学家花了十年时间研究海洋里的微小生物,最后发现了一种从来没有人见过的蓝色水母。",
        "好的。",
    ],
    "Spanish": [
        "La niña encontró una llave pequeña debajo del árbol más viejo del jardín.",
        "Mañana lloverá en las montañas, así que llevaremos ropa de abrigo y paraguas.",
        "Sí.",
    ],
}
ALL_TEXTS = [*TEXTS, *(text for texts in OTHER_LANGUAGES.values() for text in texts)]


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
    tokenizer.train_from_iterator(ALL_TEXTS, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special))
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
        vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(ALL_TEXTS, trainer)
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


def unigram_tokenizer(mask_token: str | None = None, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """By default without a mask token, like T5's and most decoders'."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>", *([mask_token] if mask_token else [])]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(ALL_TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": mask_token}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side=padding_side,
        model_max_length=64,
        **{k: v for k, v in names.items() if v},
    )


def _save(folder: Path, model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _random(model: type, config: type, **options: object) -> Callable[[PreTrainedTokenizerFast], torch.nn.Module]:
    """A function from a tokenizer to a random model for its vocabulary."""

    def build(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
        ids = {
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "cls", "sep", "pad")
        }
        return model(config(vocab_size=len(tokenizer), max_position_embeddings=66, **{**SMALL, **ids, **options}))

    return build


def _distilbert(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
    return DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes))


def _t5(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes))


def _unigram_with_mask() -> PreTrainedTokenizerFast:
    return unigram_tokenizer(mask_token="<mask>")


def _left_padded() -> PreTrainedTokenizerFast:
    return unigram_tokenizer(padding_side="left")


# Name: (architecture, tokenizer, pooling). ModernBERT has dropout 0, T5 and Qwen2 no mask token, Qwen2 left padding.
ARCHITECTURES: dict[str, tuple[Callable, Callable, str]] = {
    "bert": (_random(BertModel, BertConfig), wordpiece_tokenizer, "mean"),
    "roberta": (_random(RobertaModel, RobertaConfig), byte_bpe_tokenizer, "cls"),
    "xlm-r": (_random(XLMRobertaModel, XLMRobertaConfig), _unigram_with_mask, "mean"),
    "distilbert": (_distilbert, wordpiece_tokenizer, "mean"),
    "albert": (_random(AlbertModel, AlbertConfig, embedding_size=16), _unigram_with_mask, "mean"),
    "electra": (_random(ElectraModel, ElectraConfig, embedding_size=16), wordpiece_tokenizer, "mean"),
    "mpnet": (_random(MPNetModel, MPNetConfig), wordpiece_tokenizer, "mean"),
    "deberta-v2": (
        _random(DebertaV2Model, DebertaV2Config, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        _unigram_with_mask,
        "mean",
    ),
    "modernbert": (_random(ModernBertModel, ModernBertConfig), byte_bpe_tokenizer, "mean"),
    "t5": (_t5, unigram_tokenizer, "mean"),
    "qwen2": (_random(Qwen2Model, Qwen2Config, num_key_value_heads=2), _left_padded, "lasttoken"),
}


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SentenceTransformer]:
    """A function from a name in ARCHITECTURES to a fresh, tiny, random SentenceTransformer."""
    made: dict[str, SentenceTransformer] = {}

    def make(name: str) -> SentenceTransformer:
        if name not in made:
            build, make_tokenizer, pooling = ARCHITECTURES[name]
            tokenizer = make_tokenizer()
            torch.manual_seed(0)
            transformer = Transformer(_save(tmp_path_factory.mktemp(name), build(tokenizer), tokenizer))
            pooling = Pooling(transformer.get_embedding_dimension(), pooling)
            made[name] = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        return deepcopy(made[name])

    return make


@pytest.fixture
def tiny_model(make_model: Callable[[str], SentenceTransformer]) -> SentenceTransformer:
    return make_model("bert")


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture
def browser():
    """Chromium without a window, by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium on the path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of labelled sets, named by ST_MIRROR_DATA; tests that read it are skipped where it is absent."""
    folder = Path(os.environ.get("ST_MIRROR_DATA", "absent"))
    if not folder.is_dir():
        pytest.skip("needs labelled data: set ST_MIRROR_DATA to its folder")
    return folder
