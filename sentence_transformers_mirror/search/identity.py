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
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

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
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_SETTINGS = ("padding_side", "truncation_side", "do_lower_case")  # of tokenizers
_SAMPLE = 16  # numbers of each tensor that every search looks at


def fingerprint(model: SentenceTransformer, dimensions: int | None = None, kind: str = KIND) -> str:
    """The kind, ``v3-``, and the SHA-256 of all that decides on a vector, of which so many dimensions are kept."""
    known = [_settings(model, dimensions), _structure(model), _tokenizer(model)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=_named).encode())
    for name, value in sorted(_weights(model, kind).items()):
        _update(digest, name, value)
    return kind + digest.hexdigest()


class _Look(NamedTuple):
    sums: list[torch.Tensor]
    rest: str
    at: float  # when it was over
    took: float  # seconds


class Watch:
    """Tells whether a model may have changed since it was last looked at, in microseconds.

    torch counts changes in place, but not those of fused optimisers nor those through ``.data``. So optimisers are
    made to count, a sample of each tensor is compared every time, and all of them now and then.
    """

    def __init__(self, model: SentenceTransformer, dimensions: int | None) -> None:
        from sentence_transformers_mirror._host import count_steps

        count_steps()
        self.model, self.dimensions = model, dimensions
        self._quick = self._glance()
        self._samples = _samples(self._tensors())
        self._sampled = _gathered(self._samples)
        self._last = self._look()

    def changed(self, share: int) -> bool:
        """Whether it may have changed; all is looked at after ``share`` times what that took the last time."""
        if self._glance() != self._quick or not _equal(_gathered(self._samples), self._sampled):
            return True
        if time.perf_counter() - self._last.at < share * self._last.took:
            return False
        found = self._look()
        if found.rest != self._last.rest or not _equal(found.sums, self._last.sums):
            return True  # and so it is at every call
        self._last = found
        return False

    def _tensors(self) -> list[torch.Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def _glance(self) -> tuple:
        from sentence_transformers_mirror._host import weights_version

        return weights_version(self.model), json.dumps(_settings(self.model, self.dimensions), default=_named)

    def _look(self) -> _Look:
        start = time.perf_counter()
        sums = [_sums(tensor) for tensor in self._tensors()]
        rest = json.dumps([_structure(self.model), _tokenizer(self.model)], default=_named)
        now = time.perf_counter()
        return _Look(sums, rest, now, now - start)


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
    return len(found) == len(known) and all(one.equal(other) for one, other in zip(found, known, strict=True))


def _weights(model: SentenceTransformer, kind: str) -> dict[str, Any]:
    """The tensors, saved or not, and whatever else a state holds, such as the packed weights of a quantised model."""
    from sentence_transformers_mirror._host import unread_poolers

    found = {**model.state_dict(), **dict(model.named_buffers())}
    # Masked language models come without a pooler, and transformers draws another at random each time.
    unread = unread_poolers(model) if kind == KIND else ()
    # Some frequencies of rotary embeddings depend on the texts that were read; the config says how they are made.
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
    tokenizer, backend = _tokenizers(model)
    return {
        "modules": [_of_module(module) for module in model],
        "prompts": {name: prompt for name, prompt in model.prompts.items() if prompt},
        "default_prompt_name": model.default_prompt_name,
        "max_seq_length": model.max_seq_length,
        "truncate_dim": dimensions or model.truncate_dim,
        "tokenizer": {key: value for key in _SETTINGS if (value := getattr(tokenizer, key, None))},
        # Not the vocabulary, which takes milliseconds; there is no other way to see these than to write them out.
        "steps": [_state(getattr(backend, step, None)) for step in ("normalizer", "pre_tokenizer", "post_processor")],
    }


def _tokenizers(model: SentenceTransformer) -> tuple[Any, Any]:
    """The tokenizer of transformers, and the fast one within it where there is one; None without one."""
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer, getattr(tokenizer, "backend_tokenizer", tokenizer)


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
        if re.search("Dropout|DropPath|Identity", type(module).__name__):
            continue
        plain = not any(True for _ in chain(module.children(), module.parameters(), module.buffers()))
        if name and (plain or home.startswith(("torch.nn.modules.", "peft."))) and not home.endswith(".container"):
            if not plain or _kept(vars(module)) or "activation" in home:
                found.append([name, type(module).__name__, _kept(vars(module))])
        elif functions := {k: v for k, v in vars(module).items() if "act" in k and isinstance(v, _FUNCTIONS)}:
            found.append([name, _kept(functions)])
    return found


def _kept(value: Any) -> Any:
    """What counts of some settings: plain values and functions, by name, that are there."""
    if isinstance(value, dict):
        named = {str(key): part for key, part in value.items()}
        named = {key: _kept(part) for key, part in named.items() if key[:1] != "_" and not _NO_MATTER.search(key)}
        return {key: part for key, part in named.items() if part}
    if isinstance(value, (list, tuple)):
        return [_kept(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, _FUNCTIONS):
        return value.__qualname__
    return value if isinstance(value, _PLAIN) else None


def _tokenizer(model: SentenceTransformer) -> Any:
    """Vocabulary, normaliser and the rest; not the padding and truncation of the call before."""
    _, backend = _tokenizers(model)
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
