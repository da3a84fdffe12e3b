"""Which model made an index, and whether it still is that model.

The fingerprint covers everything that decides on a vector, and nothing else: weights, what the modules do with them,
the tokenizer, prompts and lengths; neither device nor path nor batch size.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# Of what a fingerprint is made. `EARLIER` also covers poolers that nothing reads, and is still compared.
KIND, EARLIER = "v3-", "v2-"
# In configs and modules, what changes no embedding, or tells again what the weights tell.
_NO_MATTER = re.compile(
    r"drop|initializer|label|checkpoint|cache|loss|_name_or_path|transformers_version|architectures|problem_type"
    r"|return_dict|output_hidden|output_attentions|torchscript|^d?type$|torch_dtype|^training$|^device$|flash_attn"
)
_PLAIN = (bool, int, float, str)
_SAMPLE = 16  # numbers of each tensor that every search looks at
_SHARE = 50  # a full look is due after so many times what one takes


def fingerprint(model: SentenceTransformer, dimensions: int | None = None, kind: str = KIND) -> str:
    """The kind, ``v3-``, and the SHA-256 of all that decides on a vector.

    Args:
        model: The model to identify.
        dimensions: Number of dimensions of a vector that are kept, or None for what the model does.
        kind: `KIND`, or `EARLIER` to compare with an index of an earlier release.
    """
    known = [_settings(model, dimensions), _structure(model), _tokenizer(model)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=_named).encode())
    for name, value in sorted(_weights(model, kind).items()):
        _update(digest, name, value)
    return kind + digest.hexdigest()


class Watch:
    """Tells whether a model may have changed since it was last looked at, in microseconds.

    torch counts changes in place, but not those of fused optimisers nor those through ``.data``. So optimisers are
    made to count, a sample of each tensor is compared every time, and all of them now and then: a look at all takes a
    fiftieth of the time between two.
    """

    def __init__(self, model: SentenceTransformer, dimensions: int | None) -> None:
        from sentence_transformers_mirror._host import count_steps

        count_steps()
        self.model, self.dimensions = model, dimensions
        self.note()

    def note(self) -> None:
        """Take the model as it is now."""
        start = time.perf_counter()
        self._quick = self._glance()
        self._samples = _samples([*self.model.parameters(), *self.model.buffers()])
        self._sampled = _gathered(self._samples)
        self._all = self._look()
        self._looked = time.perf_counter()
        self._takes = self._looked - start

    def changed(self, share: int = _SHARE) -> bool:
        """Whether it may have changed.

        Args:
            share: Look at everything if so many times what that takes has passed since it was last done.
        """
        if self._glance() != self._quick or not _equal(_gathered(self._samples), self._sampled):
            return True
        if time.perf_counter() - self._looked < share * self._takes:
            return False
        start = time.perf_counter()
        found = self._look()
        if found[1:] != self._all[1:] or not _equal(found[0], self._all[0]):
            return True  # and so it is at every call
        self._looked = time.perf_counter()
        self._takes = self._looked - start
        return False

    def _glance(self) -> tuple:
        from sentence_transformers_mirror._host import weights_version

        return weights_version(self.model), json.dumps(_settings(self.model, self.dimensions), default=_named)

    def _look(self) -> tuple:
        sums = [_sums(tensor) for tensor in [*self.model.parameters(), *self.model.buffers()]]
        return sums, json.dumps(_structure(self.model), default=_named), json.dumps(_tokenizer(self.model))


def _samples(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Views of a few numbers of each tensor, those of one type and device together."""
    groups: dict[tuple, list[torch.Tensor]] = {}
    for tensor in tensors:
        if tensor.is_quantized or not tensor.numel() or tensor.is_meta:
            continue
        flat = tensor.detach()
        # Only views see later changes; of a tensor that is not contiguous its first row is one.
        flat = flat.view(-1) if flat.is_contiguous() else flat[(0,) * (flat.ndim - 1)]
        groups.setdefault((flat.dtype, flat.device), []).append(flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE])
    return list(groups.values())


def _gathered(samples: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    import torch

    return [torch.cat(views).view(torch.uint8) for views in samples]  # as bytes: NaN equals itself


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Sums of the bits of each 4,096 numbers, on the device of the tensor."""
    import torch

    flat = tensor.detach()
    flat = (flat.int_repr() if flat.is_quantized else flat).reshape(-1)
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if flat.element_size() not in kinds:
        flat = torch.view_as_real(flat).reshape(-1)
    flat = flat.view(kinds[flat.element_size()])
    whole = len(flat) // 4096 * 4096
    return torch.cat([flat[:whole].view(-1, 4096).sum(1), flat[whole:].sum()[None]])


def _equal(found: list[torch.Tensor], known: list[torch.Tensor]) -> bool:
    import torch

    return len(found) == len(known) and all(map(torch.equal, found, known))


def _weights(model: SentenceTransformer, kind: str) -> dict[str, Any]:
    """The tensors and whatever else a state holds, such as the packed weights of a quantised model.

    A pooler that nothing reads does not count: a masked language model comes without one, and transformers draws
    another at random each time that it is loaded.

    Buffers that are not saved count, too, except the frequencies of rotary embeddings: some kinds of these depend on
    the texts that were read, and the config says how they are made.
    """
    from sentence_transformers_mirror._host import unread_poolers

    found = {**model.state_dict(), **dict(model.named_buffers())}
    unread = unread_poolers(model) if kind == KIND else ()
    return {name: one for name, one in found.items() if not name.endswith("inv_freq") and not name.startswith(unread)}


def _update(digest: Any, name: str, value: Any) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        value = value.detach().cpu()
        value = value.dequantize() if value.is_quantized else value
        # As bytes, because numpy has no bfloat16.
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            _update(digest, f"{name}.{number}", part)
    elif isinstance(value, (*_PLAIN, type(None), torch.dtype)):
        digest.update(f"{name} {value}".encode())


def _settings(model: SentenceTransformer, dimensions: int | None) -> dict[str, Any]:
    """What a user can set, found in microseconds."""
    tokenizer = getattr(model, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    return {
        "modules": [_of_module(module) for module in model],
        "prompts": {name: prompt for name, prompt in model.prompts.items() if prompt},
        "default_prompt_name": model.default_prompt_name,
        "max_seq_length": model.max_seq_length,
        "truncate_dim": dimensions or model.truncate_dim,
        "tokenizer": {
            key: getattr(tokenizer, key)
            for key in ("padding_side", "truncation_side", "do_lower_case")
            if getattr(tokenizer, key, None)
        },
        # Not the vocabulary, which takes milliseconds; there is no other way to see these than to write them out.
        "steps": [_state(getattr(backend, step, None)) for step in ("normalizer", "pre_tokenizer", "post_processor")],
    }


def _state(step: Any) -> str | None:
    written = getattr(step, "__getstate__", lambda: None)()
    return hashlib.sha256(written).hexdigest() if isinstance(written, bytes) else None


def _of_module(module: Any) -> dict[str, Any]:
    """A module of the pipeline: its class and its settings."""
    described = getattr(module, "get_config_dict", None)
    settings = described() if callable(described) else vars(module)
    # What is off or empty does not count: a later release of the host may add such settings.
    return {"class": type(module).__name__, **_kept(settings), "do_lower_case": getattr(module, "do_lower_case", None)}


def _structure(model: SentenceTransformer) -> list[Any]:
    """What the modules within do with their weights: the configs of transformers, activations and stock layers."""
    found: list[Any] = []
    for name, module in model.named_modules():
        home = type(module).__module__
        if config := getattr(module, "config", None) if hasattr(module, "config_class") else None:
            found.append([name, _kept(config.to_diff_dict())])
        activations = {
            key: value for key, value in vars(module).items() if "act" in key and isinstance(value, _FUNCTIONS)
        }
        leaf = not any(True for _ in module.children())
        plain = leaf and not any(True for _ in module.parameters()) and not any(True for _ in module.buffers())
        if re.search("Dropout|DropPath|Identity", type(module).__name__):
            continue
        if name and (plain or home.startswith(("torch.nn.modules.", "peft."))) and not home.endswith(".container"):
            if not plain or _kept(vars(module)) or "activation" in home:
                found.append([name, type(module).__name__, _kept(vars(module))])
        elif activations:
            found.append([name, _kept(activations)])
    return found


_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def _kept(value: Any) -> Any:
    """What counts of some settings: plain values and functions, by name, that are there."""
    if isinstance(value, dict):
        inner = {
            str(key): _kept(part)
            for key, part in value.items()
            if not str(key).startswith("_") and not _NO_MATTER.search(str(key))
        }
        return {key: part for key, part in inner.items() if part}
    if isinstance(value, (list, tuple)):
        return [_kept(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, _FUNCTIONS):
        return value.__qualname__
    return value if isinstance(value, _PLAIN) else None


def _tokenizer(model: SentenceTransformer) -> Any:
    """Vocabulary, normaliser and the rest; not the padding and truncation of the call before."""
    tokenizer = getattr(model, "tokenizer", None)
    backend: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        written = json.loads(backend.to_str())
        for passing in ("padding", "truncation", "decoder", "version"):
            written.pop(passing, None)
    elif callable(getattr(backend, "get_vocab", None)):
        vocabulary = backend.get_vocab()
        written = [sorted(vocabulary.items()) if isinstance(vocabulary, dict) else list(vocabulary)]
        written.append(_kept({k: v for k, v in vars(backend).items() if isinstance(v, _PLAIN)}))
    else:
        return None
    return hashlib.sha256(json.dumps(written, sort_keys=True, default=_named).encode()).hexdigest()


def _named(value: Any) -> str:
    return type(value).__name__
