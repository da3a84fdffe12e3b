"""The one call: raw texts and a model in, a better encoder out, on sentence-transformers' own Trainer."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor
from torch.utils.data import Sampler, get_worker_info
from tqdm.auto import tqdm
from transformers import TrainerCallback

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.evidence.verdict import Evidence
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.texts.corpus import load_corpus
from sentence_transformers_mirror.training.cached_loss import CachedMirrorLoss
from sentence_transformers_mirror.training.dropout import drophead, dropout_rate
from sentence_transformers_mirror.training.guard import Guard, hold_out
from sentence_transformers_mirror.training.loss import LAYOUT, MirrorLoss
from sentence_transformers_mirror.training.recipes import Recipe, learning_rate_for, resolve
from sentence_transformers_mirror.training.saving import refuse_model, save_whole
from sentence_transformers_mirror.training.undisturbed import undisturbed
from sentence_transformers_mirror.training.views import TokenSpanMask

logger = logging.getLogger(__name__)

_WORKERS = 12  # processes that prepare batches for a GPU at most: a text takes 0.6 ms to be cut and tokenized
HISTORY = "mirror_tune.json"  # the result of tuning, in the folder of the model


@dataclass(frozen=True)
class TuningResult:
    """What a run of `mirror_tune` did.

    Attributes:
        steps: Number of steps of the optimiser.
        seconds: Wall-clock time of the training loop and of what the guard measures.
        guard_seconds: The part of these seconds that the guard took.
        losses: Loss of each step.
        texts: Number of texts that the model was tuned on.
        dropped: Number of texts left out, by reason.
        truncated: Share of a sample of 1,000 texts that are longer than the tokens read of them, in [0, 1].
        recipe: The recipe as run.
        precision: ``"bf16"`` (autocast, on float32 weights) or ``"fp32"``.
        interrupted: Whether Ctrl-C ended the run early; the model then holds the weights of the last step.
        before: What the evaluator returned before tuning; empty without one.
        after: What the evaluator returned after tuning; empty without one.
        evidence: What the guard found on held-out texts; None where there was none.
        kept_step: The step whose weights the model has: the best that the guard saw, or the last; 0 are the original
            weights, given back because tuning made the model worse.
        averaged: Whether the guard kept the mean of that step's and the original weights, because it was better.
    """

    steps: int
    seconds: float
    guard_seconds: float
    losses: list[float]
    texts: int
    dropped: dict[str, int]
    truncated: float
    recipe: Recipe
    precision: str
    interrupted: bool
    before: dict[str, float]
    after: dict[str, float]
    evidence: Evidence | None
    kept_step: int
    averaged: bool


def mirror_tune(
    model: SentenceTransformer | str | Path,
    texts: str | Path | Dataset | Iterable[str | tuple[str, str]],
    recipe: str | Recipe = "sentence",
    *,
    output_dir: str | Path | None = None,
    max_texts: int = 20_000,
    seed: int = 42,
    evaluator: BaseEvaluator | None = None,
    callbacks: list[TrainerCallback] | None = None,
    prompt: str | None = None,
    guard: bool | None = None,
    keep_worse: bool = False,
    overwrite: bool = False,
    split_sentences: bool = False,
    **overrides: object,
) -> TuningResult:
    """Tune a model on raw texts, in place.

    Trains with `MirrorLoss` in bfloat16 autocast where the hardware has it, always on float32 weights (an update of
    2e-5 is lost in half precision), and gives the model its dtype back. Nothing is written outside ``output_dir`` and
    nothing is reported to experiment trackers. Ctrl-C ends the run with the model as of the last step.

    Args:
        model: The model, or the name or path of one (which is then only useful with ``output_dir``).
        texts: Any iterable of strings or of pairs of title and text, a ``datasets.Dataset`` or a file; see
            `load_corpus`. Titles count for recipes with views of documents, such as ``search``.
        recipe: Name of a recipe, a key of `RECIPES`, or a `Recipe`.
        output_dir: Where to save the tuned model, with the result beside it as ``mirror_tune.json``. Neither that nor
            the model's card quotes a text of the corpus.
        max_texts: More texts than these are sampled; the paper gained nothing beyond 10,000 to 20,000 (Figure 5).
        seed: Seed for sampling, order, masks and dropout. The same seed on the same machine gives equal weights.
        evaluator: An evaluator to run before and after tuning; its metrics are in the result.
        callbacks: Callbacks for the host's Trainer.
        prompt: The prompt to put before each text, never masked. By default the one that ``model.encode`` uses.
        guard: Measure the model on texts set aside (up to a tenth of them, and a tenth of the time) before tuning, on
            the way and after, keep the best weights or their mean with the original ones, and give these back if that
            is worse; see `evidence`. By default where most texts have two sentences or more, since single sentences
            show too little. With ``True`` documents of one sentence are asked by their titles, which a recipe with
            views then does without.
        keep_worse: Whether to keep tuned weights that the guard found worse.
        overwrite: Whether to replace a model that lies in ``output_dir``; it is replaced in one step.
        split_sentences: Whether to tune on the sentences of the texts, of which ``max_texts`` are then sampled. The
            guard sets texts aside before.
        **overrides: Fields of the recipe to replace, such as ``learning_rate=1e-4``.

    Returns:
        What was done; the model itself is changed in place.

    Raises:
        ValueError: If recipe, overrides or texts are of no use, the model reads no text, or ``guard=True`` and the
            texts have no structure to measure by.
        FileExistsError: If a model lies in ``output_dir`` and is not to be overwritten.
        OSError: If the model cannot be loaded or the output folder cannot be written; before anything is tuned.
        TypeError: If ``seed`` or ``max_texts`` is no whole number.
        FloatingPointError: If the loss or the weights stop being numbers; the model has its original weights back.
    """
    recipe = resolve(recipe, **overrides)
    seed, max_texts = whole_number(seed, "seed"), whole_number(max_texts, "max_texts", 2)
    if output_dir is not None:
        refuse_model(output_dir, overwrite)
    model = _load(model)
    if recipe.learning_rate is None:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        recipe = replace(recipe, learning_rate=learning_rate_for(parameters))
    dataset, report = load_corpus(texts, max_texts=max_texts, seed=seed)
    if len(dataset) < 2:
        raise ValueError(
            f"Only one distinct text is left of {report.read}; tuning pushes different texts apart, give at least two."
        )
    if sampled_out := report.dropped.get("sampled out"):
        logger.warning(
            f"Tuning on a sample of {report.kept:,} of {report.kept + sampled_out:,} texts; more did not help in the "
            "paper. Pass max_texts to change that."
        )
    if output_dir is not None:
        _require_writable(Path(output_dir))
    if prompt is None:
        prompt = model.prompts.get(model.default_prompt_name)
    parts = None
    if guard is not False:
        dataset, parts = hold_out(dataset, recipe, seed, by_titles=bool(guard))
        if guard and parts is None:
            raise ValueError(
                "The guard needs 500 texts or more (700 if they are long), most of them of two sentences at least or "
                "with a title, to set some aside: give paragraphs instead of sentences, or guard=None to do without "
                "where there are none."
            )
        if parts is not None and recipe.views is not None and parts.structure in recipe.views.teaches:
            # What judges must not be taught, or the verdict would be about the lesson.
            recipe = replace(recipe, views=replace(recipe.views, titles=0.0))
    if split_sentences:
        dataset, _ = load_corpus(dataset, max_texts=max_texts, seed=seed, split_sentences=True)
    max_length = min(recipe.max_length, model.max_seq_length or recipe.max_length)
    loss = _loss(model, recipe)
    truncated = _share_truncated(model, dataset, max_length, prompt)
    if truncated > 0.2 and recipe.views is None:  # of documents each epoch reads other parts
        logger.warning(
            f"{truncated:.0%} of the texts are longer than the {max_length} tokens read of them; split them into "
            "sentences (split_sentences=True), or raise max_length."
        )
    progress = _Progress(recipe)
    with ExitStack() as stack:
        stack.enter_context(undisturbed(model))
        # The Trainer wants a folder, though nothing is saved in it.
        workspace = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_trained_in_float32(model))
        before = _evaluated(evaluator, model)
        if recipe.dropout is not None:
            stack.enter_context(dropout_rate(model, recipe.dropout))
        if recipe.drophead:
            stack.enter_context(drophead(model, recipe.drophead))
        trainer = _MirrorTrainer(
            model=model,
            args=_arguments(model, recipe, workspace, seed, len(dataset)),
            train_dataset=dataset.select_columns("text")
            if recipe.views is None
            else dataset.with_transform(recipe.views),
            loss=loss,
            data_collator=_Collator(preprocess_fn=model.preprocess, prompts=prompt, max_length=max_length),
            callbacks=[progress, *(callbacks or [])],
        )
        watch = None
        if parts is not None:
            watch = Guard(model, parts, trainer.compute_loss_context_manager, prompt)
            trainer.add_callback(watch)
        original = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        try:
            start = time.perf_counter()
            interrupted = _train(trainer, progress)
            evidence, kept_step, averaged = None, trainer.state.global_step, False
            if watch is not None and kept_step:
                evidence, kept = watch.finish(kept_step, original, keep_worse, seed)
                kept_step, averaged = (0, False) if kept is None else (kept.step, kept.averaged)
            seconds = time.perf_counter() - start
        except BaseException:
            model.load_state_dict(original)
            raise
        finally:
            _host.raise_versions([*model.parameters(), *model.buffers()])  # for an index that knows the model
    losses = trainer.step_losses[: trainer.state.global_step].tolist()
    _host.describe_run(model, str(recipe), losses, trainer.state.epoch or 0)
    if output_dir is not None:
        # Before anything that can fail: minutes of tuning are in it.
        save_whole(lambda folder: model.save_pretrained(str(folder)), output_dir)
    with _modes_kept(model):
        after = _evaluated(evaluator, model)
    result = TuningResult(
        steps=trainer.state.global_step,
        seconds=seconds,
        guard_seconds=0.0 if watch is None else watch.seconds,
        losses=losses,
        texts=len(dataset),
        dropped=report.dropped,
        truncated=truncated,
        recipe=recipe,
        precision="bf16" if trainer.autocast_bf16 else "fp32",
        interrupted=interrupted,
        before=before,
        after=after,
        evidence=evidence,
        kept_step=kept_step,
        averaged=averaged,
    )
    if output_dir is not None:
        if after:
            _host.write_card(model, Path(output_dir))  # now with what the evaluator said
        history = json.dumps({**asdict(result), "seed": seed}, indent=1, default=str)
        Path(output_dir, HISTORY).write_text(history + "\n", encoding="utf-8")
    return result


def _evaluated(evaluator: BaseEvaluator | None, model: SentenceTransformer) -> dict[str, object]:
    """What an evaluator says, in numbers of Python; one that returns a number says ``score``."""
    found = {} if evaluator is None else evaluator(model)
    found = found if isinstance(found, dict) else {"score": found}
    return {str(name): plain(value) for name, value in found.items()}


class _MirrorTrainer(SentenceTransformerTrainer):
    """The host's Trainer with one autocast region around all forward passes of a step.

    With ``bf16=True`` it would wrap ``model.forward`` instead: the weights would be cast once for each group of rows,
    and the wrapper would stay on the model.
    """

    model_card_callback_class = _host.PrivateCardCallback

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.autocast_bf16 = _host.has_native_bf16(self.args.device)
        # One tensor for all: one a step would each hold on to the memory around it.
        self.step_losses = torch.zeros(0)
        # Both print what is logged; _Progress shows it.
        self.remove_callback(_host.PrinterCallback)
        self.remove_callback(_host.ProgressCallback)

    def get_batch_sampler(self, dataset: Dataset, *, generator: torch.Generator, **kwargs) -> DefaultBatchSampler:
        return DefaultBatchSampler(_Shuffled(len(dataset), generator), generator=generator, **kwargs)

    def compute_loss_context_manager(self) -> AbstractContextManager:
        return torch.autocast(self.args.device.type, torch.bfloat16) if self.autocast_bf16 else nullcontext()

    def compute_loss(self, *args, **kwargs) -> Tensor:
        loss = super().compute_loss(*args, **kwargs)
        if not len(self.step_losses):
            self.step_losses = torch.zeros(self.state.max_steps, device=loss.device)
        self.step_losses[self.state.global_step] = loss.detach()
        return loss


class _Shuffled(Sampler[int]):
    """Each row once, in a new order each time. The host's sampler makes a Python list of the whole order, 40 bytes a
    row; this makes one of a few thousand at a time."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        self.rows, self.generator = rows, generator

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.rows, generator=self.generator, dtype=torch.int32 if self.rows < 2**31 else None)
        for part in order.split(4_096):
            yield from part.tolist()

    def __len__(self) -> int:
        return self.rows


class _Collator(_host.SentenceTransformerDataCollator):
    """Tells the loss the lengths of rows, so that it need not ask the device for them."""

    def __call__(self, features: list[dict[str, object]]) -> dict[str, object]:
        if get_worker_info() is not None:
            # Threads of the tokenizer do not survive a fork; without this it warns of that in each worker.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        batch = super().__call__(features)
        mask = "attention_mask"
        layouts = {key.removesuffix(mask) + LAYOUT: batch[key].numpy() for key in batch if key.endswith(f"_{mask}")}
        return {**batch, **layouts}


class _Progress(TrainerCallback):
    """Shows a bar and stops a run whose loss is not a number any more.

    Looks at the losses every tenth step only, since reading one waits for the device.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.bar: tqdm | None = None
        self.trainer: _MirrorTrainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.bar = tqdm(total=state.max_steps, desc="Tuning", unit="step", disable=sys.stderr is None)
        give_memory_back()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update()
        if state.global_step % 50 == 0 and args.device.type == "cpu":
            give_memory_back()
        if state.global_step % 10 == 0 or state.global_step == state.max_steps:
            losses = self.trainer.step_losses[: state.global_step]
            self.bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if not losses.isfinite().all():
                step = int(losses.isfinite().logical_not().nonzero()[0]) + 1
                raise FloatingPointError(f"The loss is not a number at step {step}: {self._cause(step)}")

    def on_train_end(self, args, state, control, model, **kwargs) -> None:
        self.bar.close()
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise FloatingPointError(f"Weights are not numbers after step {state.global_step}: {self._cause(2)}")

    def _cause(self, step: int) -> str:
        if step == 1:
            return "the model's own weights or embeddings are not numbers; load it anew."
        return (
            f"the learning rate of {self.recipe.learning_rate:g} is likely too high; try a tenth of it. "
            "The model has its original weights back."
        )


def give_memory_back() -> None:
    """To the system, on Linux: glibc keeps what was freed, in pieces of which ever fewer are of use to steps of ever
    other shapes. A call takes 20 ms."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # other libraries have none
        library.malloc_trim(0)


def _loss(model: SentenceTransformer, recipe: Recipe) -> MirrorLoss:
    mask = None if recipe.mask is None else TokenSpanMask(recipe.mask, recipe.mask_min_length)
    options: dict[str, object] = {"labels_are_ids": recipe.views is not None}
    if recipe.mini_batch_size is None:
        return MirrorLoss(model, recipe.temperature, mask, recipe.ignore_duplicates, **options)
    options["mini_batch_size"] = recipe.mini_batch_size
    return CachedMirrorLoss(model, recipe.temperature, mask, recipe.ignore_duplicates, **options)


def _train(trainer: _MirrorTrainer, progress: _Progress) -> bool:
    """Whether Ctrl-C ended the run."""
    progress.trainer = trainer
    try:
        trainer.train()
    except KeyboardInterrupt:
        logger.warning(
            f"Stopped by Ctrl-C at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            "the model holds the weights of that step."
        )
        return True
    finally:
        if progress.bar is not None:
            progress.bar.close()
        trainer.model.zero_grad()
    return False


def _arguments(model: SentenceTransformer, recipe: Recipe, workspace: str, seed: int, texts: int):
    on_cpu = model.device.type == "cpu"
    # A last, smaller batch would have fewer negatives and so another loss; the paper's code drops it, too.
    drop_last = texts >= recipe.batch_size
    steps = recipe.epochs * (texts // recipe.batch_size if drop_last else 1)
    workers = 0 if on_cpu or recipe.views is None else min(_WORKERS, 3 * (os.cpu_count() or 1) // 4)
    args = SentenceTransformerTrainingArguments(
        output_dir=workspace,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear" if recipe.decay else "constant_with_warmup",
        warmup_steps=round(recipe.warm_up * steps),
        max_grad_norm=0.0,  # the paper's code does not clip
        dataloader_drop_last=drop_last,
        # Cropping and tokenizing take longer than a GPU does.
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        use_cpu=on_cpu,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # reads the loss, and so waits for the device, in every step
        report_to="none",
        disable_tqdm=True,
    )
    _host.use_one_device(args)
    return args


@contextmanager
def _trained_in_float32(model: SentenceTransformer) -> Iterator[None]:
    """Float32 weights inside; the dtypes and the training modes of before outside."""
    dtypes = {name: tensor.dtype for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    with _modes_kept(model):
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
def _modes_kept(model: SentenceTransformer) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _load(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    model = load_model(model)
    if not model.supports("text"):
        modalities = ", ".join(map(str, model.modalities))
        raise ValueError(f"This model reads {modalities} and no text; mirror tuning needs a text encoder.")
    return model


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"The output folder {str(folder)!r} cannot be written ({error}); choose another.") from error


def _share_truncated(model: SentenceTransformer, dataset: Dataset, max_length: int, prompt: str | None) -> float:
    sample = dataset[:: max(1, len(dataset) // 1000)]["text"]
    # No token of natural text is 20 characters long on average: more characters than these need not be looked at.
    sample = [(prompt or "") + text[: 20 * max_length] for text in sample]
    tokens = model.tokenizer(sample, verbose=False)["input_ids"]
    return sum(len(ids) > max_length for ids in tokens) / len(tokens)
