"""A program that uses every public name; `mypy --strict` must know the type of each, and nothing is run."""

from __future__ import annotations

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from typing_extensions import assert_type

from sentence_transformers_mirror import (
    RECIPES,
    CachedMirrorLoss,
    CharSpanMask,
    CorpusReport,
    DocumentViews,
    Hit,
    MilvusSearch,
    MirrorLoss,
    Recipe,
    SearchIndex,
    TokenSpanMask,
    TuningResult,
    compare,
    drophead,
    dropout_rate,
    embedded_model_path,
    encode_shards,
    evaluate,
    export,
    generated_queries,
    load_corpus,
    mirror_tune,
    nt_xent,
    two_views,
)
from sentence_transformers_mirror.evidence.evaluation import Score
from sentence_transformers_mirror.evidence.verdict import Evidence


def program(model: SentenceTransformer) -> None:
    assert_type(embedded_model_path(), str)
    assert_type(RECIPES["search"], Recipe)
    assert_type(mirror_tune(model, ["a text", "another"], "search"), TuningResult)
    assert_type(generated_queries(["a text"], str.upper, model), tuple[Dataset, CorpusReport])
    assert_type(compare(model, model, ["one. two.", "three. four."]), Evidence)
    assert_type(evaluate(model, "data"), list[Score])
    texts, report = load_corpus("texts.csv")
    assert_type(report, CorpusReport)
    index = SearchIndex.build(model, ["a text"])
    assert_type(index, SearchIndex)
    assert_type(index.search("a query"), list[Hit])
    assert_type(index.search(["a query", "another"]), list[list[Hit]])
    shards = encode_shards(model, ["texts.csv"], "vectors", ids="id")
    assert_type(shards, list[str])
    assert_type(export(shards, "milvus://localhost:19530/texts"), int)
    remote = MilvusSearch("milvus://localhost:19530/texts", model)
    assert_type(remote.search("a query", 5, {"year": 2024}), list[Hit])
    assert_type(remote.search(["a query", "another"]), list[list[Hit]])
    assert_type(SearchIndex.from_shards(shards, path="index"), SearchIndex)
    MirrorLoss(model, mask=TokenSpanMask())
    CachedMirrorLoss(model)
    two_views(CharSpanMask(model.tokenizer))
    DocumentViews()({"text": ["a text"]})
    assert_type(nt_xent(torch.ones(2, 4), torch.ones(2, 4), 0.05), torch.Tensor)
    with dropout_rate(model, 0.1), drophead(model, 0.2):
        pass
