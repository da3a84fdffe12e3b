"""A model that is what it was before, whatever was done with it: dtypes and training modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sentence_transformers import SentenceTransformer


@contextmanager
def trained_in_float32(model: SentenceTransformer) -> Iterator[None]:
    """Float32 weights inside; the dtypes and the training modes of before outside."""
    dtypes = {name: tensor.dtype for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    with modes_kept(model):
        model.float()
        try:
            yield
        finally:
            for name, parameter in model.named_parameters():
                parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
            # These are other tensors than before: `float` replaces buffers.
            for prefix, module in model.named_modules():
                for key, buffer in module._buffers.items():
                    wanted = dtypes.get(f"{prefix}.{key}" if prefix else key)
                    if buffer is not None and wanted is not None and buffer.dtype != wanted:
                        module._buffers[key] = buffer.to(wanted)


@contextmanager
def modes_kept(model: SentenceTransformer) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
