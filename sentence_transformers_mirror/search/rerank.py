"""A second look: a slower and better judge orders what a search found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from sentence_transformers_mirror.search.hits import Hit

Judge = Callable[[list[tuple[str, str]]], Iterable[float]]


def judge(rerank: CrossEncoder | Judge | str | Path) -> Judge:
    """A function that scores pairs of a query and a text.

    Args:
        rerank: A ``CrossEncoder``, its name or path, or such a function.

    Raises:
        OSError: If there is no such model, or none that was trained to judge pairs.
        TypeError: If it is none of these.
    """
    from sentence_transformers import CrossEncoder

    if isinstance(rerank, (str, Path)):
        rerank = _loaded(str(rerank))
    if isinstance(rerank, CrossEncoder):
        model = rerank
        return lambda pairs: model.predict(pairs, show_progress_bar=False)
    if not callable(rerank):
        raise TypeError(
            f"rerank must be a CrossEncoder, its name or path, or a function of pairs, not {type(rerank).__name__}."
        )
    return rerank


def _loaded(name: str) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    from sentence_transformers_mirror import _host
    from sentence_transformers_mirror.models import chosen_device
    from sentence_transformers_mirror.terminal import quiet

    device = chosen_device()
    try:
        with quiet():
            model = CrossEncoder(name, device=device)
    except Exception as error:  # a damaged folder raises anything
        raise OSError(
            f"The model {name!r} could not be loaded to take a second look: no such folder, or no CrossEncoder in it, "
            f"and none of this name in the hub ({type(error).__name__})."
        ) from error
    random = [weight for encoder in _host.encoders(model) for weight in _host.random_weights(encoder)]
    if random:
        raise OSError(
            f"The model {name!r} was not trained to judge pairs, its files lack {random[-1]} and the order would be "
            "random: name a CrossEncoder, also called a reranker."
        )
    return model


def reranked(judge: Judge, query: str, hits: list[Hit]) -> list[Hit]:
    """Hits by what a judge says of their passages, or texts, highest first; equal ones stay in their order.

    Raises:
        ValueError: If these are not as many finite numbers as hits.
    """
    if not hits:
        return []
    given = judge([(query, hit.text if hit.passage is None else hit.passage) for hit in hits])
    try:
        scores = np.array(list(given), np.float64)
    except (TypeError, ValueError):
        scores = np.empty((0, 0))
    if scores.shape != (len(hits),) or not np.isfinite(scores).all():
        raise ValueError(
            f"rerank must give one finite number for each of the {len(hits)} pairs, as a CrossEncoder with one label "
            f"does, and gave an array of shape {scores.shape}."
        )
    for hit, score in zip(hits, scores.tolist(), strict=True):
        object.__setattr__(hit, "score", score)
    return [hits[place] for place in np.argsort(-scores, kind="stable")]
