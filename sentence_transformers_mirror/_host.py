"""Everything of sentence-transformers, transformers and torch that we use and that is not documented API.

One place to look when one of them changes; each entry says why it is needed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.losses.gradcache import CachedLossMixin as CachedLossMixin
from sentence_transformers.sentence_transformer.data_collator import (
    SentenceTransformerDataCollator as SentenceTransformerDataCollator,
)
from sentence_transformers.sentence_transformer.losses.adaptive_layer import TransformerDecorator
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardCallback
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AttentionInterface, PreTrainedModel, TrainingArguments
from transformers.masking_utils import AttentionMaskInterface
from transformers.trainer_callback import PrinterCallback as PrinterCallback
from transformers.trainer_callback import ProgressCallback as ProgressCallback
from transformers.utils import logging as transformers_logging


def encoders(model: nn.Module) -> list[PreTrainedModel]:
    """The outermost transformers models inside a model."""
    found: list[PreTrainedModel] = []
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and not any(module in set(outer.modules()) for outer in found):
            found.append(module)
    return found


def random_weights(encoder: PreTrainedModel) -> list[str]:
    """Names of the weights that a model just loaded did not find in its files, and has at random.

    transformers logs them in a table. It marks those that it found; none is marked where it does so no longer, and the
    weights of an adapter or of a quantised model never are.
    """
    if getattr(encoder, "_hf_peft_config_loaded", False) or getattr(encoder, "hf_quantizer", None) is not None:
        return []
    found = {name: getattr(weight, "_is_hf_initialized", False) for name, weight in encoder.named_parameters()}
    return [name for name, marked in found.items() if not marked] if any(found.values()) else []


def draw_bars(drawn: bool) -> None:
    """Whether transformers draws bars of loading and saving; its own switch is that of the hub's downloads, too."""
    transformers_logging._tqdm_active = drawn


# Attention is chosen by name, in a private field of the config that `save_pretrained` leaves out. The registries are
# documented; reading a function back from them is not.
def attention_name(encoder: PreTrainedModel) -> str:
    return encoder.config._attn_implementation


def attention_functions(name: str) -> tuple[Callable, Callable]:
    """The attention function of a name and the function that makes its mask."""
    return AttentionInterface()[name], AttentionMaskInterface()[name]


def computes_twice(encoder: PreTrainedModel) -> bool:
    """Whether gradient checkpointing is on; transformers renames the property that tells, and not the attribute."""
    return any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile made some of a model's forward passes; it wraps a module or takes over its call."""
    return any(module._compiled_call_impl is not None or hasattr(module, "_orig_mod") for module in model.modules())


# What torch.compile uses on a CPU; there is no documented way to multiply with a weight laid out by oneDNN.
def packs_linears() -> bool:
    x86, onednn = platform.machine().lower() in ("x86_64", "amd64"), torch.backends.mkldnn
    return bool(x86 and onednn.is_available() and onednn.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise"))


def pack_linear(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def packed_linear(input: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")


def register_attention(name: str, attention: Callable, mask: Callable) -> None:
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, mask)


def set_attention(encoder: PreTrainedModel, name: str) -> None:
    encoder.set_attn_implementation(name)


def has_native_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware; emulated, that is several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Old releases of torch cannot be asked; a float32 run is never wrong, only slower.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def use_one_device(args: TrainingArguments) -> None:
    """Keep the Trainer from spreading one process over all GPUs with DataParallel, which splits the negatives."""
    if args.n_gpu > 1:
        args._n_gpu = 1


def end_workers(trainer: SentenceTransformerTrainer) -> None:
    """End the processes that a Trainer's loaders keep from epoch to epoch, and longer, since a circle holds these: a
    process that ends with them still there has been seen to hang on a GPU."""
    for loader in trainer.accelerator._dataloaders:
        loader = getattr(loader, "base_dataloader", loader)  # accelerate's own stands around torch's
        if (iterator := getattr(loader, "_iterator", None)) is not None:
            iterator._shutdown_workers()
            loader._iterator = None


def in_adaptive_layer_loss(model: nn.Module) -> bool:
    """Whether a loss is called from within AdaptiveLayerLoss, which swaps the forward of the first module."""
    return any(isinstance(vars(module).get("forward"), TransformerDecorator) for module in model.modules())


def describe_run(model: SentenceTransformer, recipe: str, losses: list[float], epochs: float) -> None:
    """Write into the model card how a model was tuned: tags, the recipe, and the loss at a few steps."""
    card = model.model_card_data
    card.add_tags(["mirror-bert", "self-supervised"])
    card.non_default_hyperparameters["recipe"] = recipe
    card.training_logs = [
        {"Epoch": epochs * step / len(losses), "Step": step, "Training Loss": losses[step - 1]}
        for step in sorted({1 + i * (len(losses) - 1) // 9 for i in range(10)} if losses else ())
    ]


class PrivateCardCallback(SentenceTransformerModelCardCallback):
    """Keeps the training texts out of the model card: widget, usage snippet and dataset samples, which the host's
    ``generate_widget_examples=False`` leaves in."""

    # The host's own asks for a model and a trainer, where transformers has keywords.
    def on_init_end(self, args, state, control, model, trainer, **kwargs) -> None:  # type: ignore[override]
        card = model.model_card_data
        card.widget = [{}]  # the host fills it from the corpus only where it is empty
        super().on_init_end(args, state, control, model=model, trainer=trainer, **kwargs)
        card.widget = []
        card.usage_examples = None
        for dataset in card.train_datasets:
            dataset.pop("examples", None)
            dataset.pop("examples_table", None)


def weights_version(model: nn.Module) -> tuple:
    """A value that differs after any tensor of a model was replaced or changed in place, found without reading them;
    but not after changes through ``.data``, nor those of fused optimisers before `count_steps` was called."""
    tensors = [*model.parameters(), *model.buffers()]
    return tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)


@cache
def count_steps() -> None:
    """Make every optimiser raise the versions of the weights that it changes; fused ones do not by themselves."""
    register_optimizer_step_post_hook(
        lambda optimizer, *_: raise_versions(one for group in optimizer.param_groups for one in group["params"])
    )


def raise_versions(tensors: Iterable[Tensor]) -> None:
    """Tell whoever watches these tensors that they were changed."""
    for tensor in tensors:
        if not tensor.is_inference():
            increment_version(tensor)


def write_card(model: SentenceTransformer, folder: Path) -> None:
    """The model's card as it is now, into a folder that the model was saved in."""
    model._create_model_card(str(folder))


def unread_poolers(model: SentenceTransformer) -> tuple[str, ...]:
    """How the names of weights begin that are in poolers of transformers whose last hidden states alone are read."""
    found = []
    for number, module in model.named_children():
        outputs = {one.get("method_output_name") for one in getattr(module, "modality_config", {}).values()}
        if outputs == {"last_hidden_state"}:
            for name, part in module.named_modules():
                if isinstance(part, PreTrainedModel) and getattr(part, "pooler", None) is not None:
                    found.append(f"{number}.{name}.pooler." if name else f"{number}.pooler.")
    return tuple(found)
