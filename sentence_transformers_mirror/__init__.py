"""Mirror-BERT for sentence-transformers: better encoders from raw text alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which do not run `__getattr__`
    from sentence_transformers_mirror.evidence.evaluation import evaluate
    from sentence_transformers_mirror.evidence.verdict import compare
    from sentence_transformers_mirror.scale.milvus import MilvusSearch, export
    from sentence_transformers_mirror.scale.shards import encode_shards
    from sentence_transformers_mirror.search import Hit, SearchIndex
    from sentence_transformers_mirror.texts.corpus import CorpusReport, load_corpus
    from sentence_transformers_mirror.training.cached_loss import CachedMirrorLoss
    from sentence_transformers_mirror.training.document_views import DocumentViews
    from sentence_transformers_mirror.training.dropout import drophead, dropout_rate
    from sentence_transformers_mirror.training.generated import generated_queries
    from sentence_transformers_mirror.training.loss import MirrorLoss
    from sentence_transformers_mirror.training.nt_xent import nt_xent
    from sentence_transformers_mirror.training.recipes import RECIPES, Recipe
    from sentence_transformers_mirror.training.tuning import TuningResult, mirror_tune
    from sentence_transformers_mirror.training.views import CharSpanMask, TokenSpanMask, two_views

__version__ = "0.1.0"

# Names are resolved on first use (PEP 562): importing this package costs nothing, and the command line can parse its
# arguments before torch is loaded.
_HOMES = {
    "evidence.evaluation": ["evaluate"],
    "evidence.verdict": ["compare"],
    "scale.milvus": ["MilvusSearch", "export"],
    "scale.shards": ["encode_shards"],
    "search": ["Hit", "SearchIndex"],
    "texts.corpus": ["CorpusReport", "load_corpus"],
    "training.cached_loss": ["CachedMirrorLoss"],
    "training.document_views": ["DocumentViews"],
    "training.dropout": ["drophead", "dropout_rate"],
    "training.generated": ["generated_queries"],
    "training.loss": ["MirrorLoss"],
    "training.nt_xent": ["nt_xent"],
    "training.recipes": ["RECIPES", "Recipe"],
    "training.tuning": ["TuningResult", "mirror_tune"],
    "training.views": ["CharSpanMask", "TokenSpanMask", "two_views"],
}

__all__ = [
    "CachedMirrorLoss",
    "CharSpanMask",
    "CorpusReport",
    "DocumentViews",
    "Hit",
    "MilvusSearch",
    "MirrorLoss",
    "RECIPES",
    "Recipe",
    "SearchIndex",
    "TokenSpanMask",
    "TuningResult",
    "compare",
    "drophead",
    "dropout_rate",
    "embedded_model_path",
    "encode_shards",
    "evaluate",
    "export",
    "generated_queries",
    "load_corpus",
    "mirror_tune",
    "nt_xent",
    "two_views",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    for room in ("texts", "training", "evidence"):  # programs know modules by the names of before they had rooms
        if (Path(__file__).parent / room / f"{name}.py").is_file():
            return import_module(f"{__name__}.{room}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def embedded_model_path() -> str:
    """Folder of the small English encoder in this package, to start from without a network.

    It is for demonstrations and tests. ``SentenceTransformer(embedded_model_path())`` loads it with mean pooling.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from sentence_transformers_mirror import embedded_model_path
        >>> SentenceTransformer(embedded_model_path()).encode("a text").shape
        (384,)
    """
    return str(Path(__file__).parent / "embedded")
