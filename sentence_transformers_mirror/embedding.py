"""From many texts to vectors with hardly any padding computed, in batches that fit the caches of the machine."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sentence_transformers_mirror.scalars import whole_number

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Fast tokenizers raise "Already borrowed" when two threads set their padding at once.
ONE_AT_A_TIME = threading.Lock()
# Tokens embedded in one forward pass: few long texts or many short ones. What a cache holds, or what fills a GPU.
_TOKENS_ON_CPU, _TOKENS_ELSEWHERE = 1_024, 16_384
_PASSES = 4  # at a time on a CPU: cores that share one wait for each other after every operation
_PACKED_FROM = 4  # passes: it does not pay to lay weights out for fewer


def embed(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    encode: str = "encode",
    batch_size: int | None = None,
    done: Callable[[int], object] | None = None,
    **options: object,
) -> np.ndarray:
    """What ``model.encode(texts)`` gives, shape (texts, dim), faster: the more texts there are, the less padding.

    Equal texts are embedded once, texts of equal length together, and on a CPU several batches at a time, with weights
    laid out for it (which takes their memory twice meanwhile).

    Args:
        encode: The model's method: ``encode``, ``encode_query`` or ``encode_document``.
        batch_size: Texts embedded at a time, at least 1; by default about 1,000 tokens of them, or 16,000 on a GPU.
        done: A function that is called with the number of texts of each batch.
        **options: Options of ``encode``, such as ``prompt`` or ``truncate_dim``.
    """
    from torch import nn

    from sentence_transformers_mirror.fast_cpu import PackedLinears

    batch_size = None if batch_size is None else whole_number(batch_size, "batch_size", 1)
    done = done or (lambda count: None)
    texts = readable(model, texts)
    distinct = list(dict.fromkeys(texts))
    lengths = _lengths(model, distinct, options.get("prompt"))
    order = np.argsort(-lengths, kind="stable")  # longest first: what does not fit memory fails at once
    budget = _TOKENS_ON_CPU if model.device.type == "cpu" else _TOKENS_ELSEWHERE
    batches, start = [], 0
    while start < len(order):
        batches.append(order[start : start + (batch_size or max(1, budget // max(1, int(lengths[order[start]]))))])
        start += len(batches[-1])
    method = getattr(_one_at_a_time(model), encode)
    # Whatever encodes is a model here.
    packed = len(batches) >= _PACKED_FROM and isinstance(model, nn.Module) and PackedLinears.usable(model)
    multiplied_faster = partial(PackedLinears, {}) if packed else nullcontext

    def embed_batch(rows: np.ndarray) -> np.ndarray:
        batch = [distinct[row] for row in rows]
        with multiplied_faster():  # a context for each thread
            return method(batch, batch_size=len(batch), show_progress_bar=False, convert_to_numpy=True, **options)

    vectors = np.empty((len(distinct), 0), np.float32)
    for rows, made in zip(batches, _map(embed_batch, batches, model), strict=True):
        if not vectors.shape[1]:
            vectors = np.empty((len(distinct), made.shape[1]), made.dtype)
        vectors[rows] = made
        done(len(rows))
    done(len(texts) - len(distinct))
    numbers = {text: number for number, text in enumerate(distinct)}
    return vectors[[numbers[text] for text in texts]]


def readable(model: SentenceTransformer, texts: Sequence[str]) -> list[str]:
    """Texts without what is far beyond what a model reads: a tokenizer takes all of a text, and takes its time."""
    longest = model.max_seq_length
    if longest is None or longest >= 2**31:
        return list(texts)
    limit = 100 * int(longest)  # characters, of which natural text needs five a token
    return [text if len(text) <= limit or not text[:limit].strip() else text[:limit] for text in texts]


def _one_at_a_time(model: SentenceTransformer) -> SentenceTransformer:
    """The same model, modules and all, which several threads may call: it tokenizes for one after the other."""
    twin = copy.copy(model)

    def preprocess(*args: Any, **kwargs: Any) -> dict[str, Any]:
        with ONE_AT_A_TIME:
            return model.preprocess(*args, **kwargs)

    vars(twin)["preprocess"] = preprocess
    return twin


def _map(
    work: Callable[[np.ndarray], np.ndarray], batches: list[np.ndarray], model: SentenceTransformer
) -> Iterator[np.ndarray]:
    """Like `map`, on a CPU several at a time with a share of its threads each."""
    import torch

    global _embedding, _threads
    with _counting:
        # Another thread that embeds now has set it to a share.
        threads = torch.get_num_threads() if not _embedding else _threads
    passes = min(threads, _PASSES, len(batches))
    # A new thread knows nothing of the autocast region of its caller.
    if passes < 2 or model.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        yield from map(work, batches)
        return
    with _counting:
        _embedding, _threads = _embedding + 1, threads
    pool = ThreadPoolExecutor(passes, initializer=torch.set_num_threads, initargs=(threads // passes,))
    try:
        # Its threads may do what this one may.
        yield from pool.map(lambda context, rows: context.run(work, rows), [copy_context() for _ in batches], batches)
    finally:
        pool.shutdown(cancel_futures=True)
        with _counting:
            _embedding -= 1
        torch.set_num_threads(threads)  # what threads begin with is one number for all of them


def _renew_locks() -> None:
    """In a forked process: the thread that held a lock is not there any more."""
    global _counting, _embedding, ONE_AT_A_TIME
    _counting, ONE_AT_A_TIME, _embedding = threading.Lock(), threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
_counting = threading.Lock()
_embedding, _threads = 0, 1  # how many embed in several threads now, and the threads of torch before the first did


def _lengths(model: SentenceTransformer, texts: list[str], prompt: object) -> np.ndarray:
    """Tokens of each text as far as it is read, with the longest prompt; characters where there is no tokenizer."""
    tokenizer, longest = getattr(model, "tokenizer", None), model.max_seq_length
    if not texts or not callable(tokenizer):
        return np.array([len(text) for text in texts])
    # A tokenizer without a limit says 10**30, which it does not take itself.
    longest = int(longest) if longest is not None and longest < 2**31 else None
    prompts = [prompt] if isinstance(prompt, str) else list(model.prompts.values())
    # Tokenizing twice costs little beside a forward pass, and characters tell the width of a batch badly.
    with ONE_AT_A_TIME:
        options = {"truncation": longest is not None, "max_length": longest, "verbose": False}
        tokens = tokenizer([*texts, *filter(None, prompts)], **options)["input_ids"]
    lengths = np.array([len(ids) for ids in tokens])
    return lengths[: len(texts)] + lengths[len(texts) :].max(initial=0)
