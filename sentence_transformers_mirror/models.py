"""Load a model, or say in one sentence why not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_device: str | None = None  # of this process: where models go that are loaded by name


@contextmanager
def placed_on(device: str | None) -> Iterator[None]:
    """Inside, models that are loaded by name go to a device of PyTorch, such as ``cpu``; None lets the host choose."""
    global _device
    before, _device = _device, device
    try:
        yield
    finally:
        _device = before


def chosen_device() -> str | None:
    """The device that models are to go to, or None; a ValueError if this machine has none of this name."""
    if _device is not None:
        import torch

        try:
            torch.zeros(1, device=_device)
        except Exception as error:  # each kind of device raises another
            raise ValueError(
                f"PyTorch has no device {_device!r} on this machine: choose another, or none for the fastest."
            ) from error
    return _device


def load_model(model: SentenceTransformer | str | Path, local: bool = False) -> SentenceTransformer:
    """A model from a folder or the hub, off the network if ``local``; one that is loaded already is given back. An
    OSError says that there is none or that it is damaged, a ValueError that its device is not there."""
    if not isinstance(model, (str, Path)):
        return model
    from sentence_transformers import SentenceTransformer

    from sentence_transformers_mirror import _host
    from sentence_transformers_mirror.terminal import quiet

    name, there, device = repr(str(model)), Path(model).exists(), chosen_device()
    try:
        with quiet():
            loaded = SentenceTransformer(str(model), device=device, local_files_only=local)
            if loaded.supports("text"):
                loaded.encode(["a"], show_progress_bar=False)  # some damage is only seen then
    except Exception as error:  # a damaged folder raises anything
        kind = type(error).__name__
        cause = f"{kind}: {' '.join(str(error).split())[:200]}"
        if there:
            told = f"The model in {name} could not be loaded, its files are damaged or of another kind ({cause})."
        elif isinstance(error, (OSError, ValueError)):
            told = (
                f"The model {name} could not be loaded: no such folder, and no such model in the hub or no network to "
                f"reach it ({kind})."
            )
        else:
            told = f"The model {name} could not be loaded ({cause})."
        raise OSError(told) from error
    # Of a pooler, which makes no embeddings, most files know nothing.
    random = [name for one in _host.encoders(loaded) for name in _host.random_weights(one) if "pooler" not in name]
    if random:
        logger.warning(
            f"The folder of the model {name} lacks {len(random)} weights (first: {random[0]}), which are "
            "random now: load another model, unless you mean to train them."
        )
    return loaded
