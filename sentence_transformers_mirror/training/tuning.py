"""The one call: raw texts and a model in, a better encoder out, on sentence-transformers' own Trainer."""

from __future__ import annotations

import html
import json
import logging
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers import TrainerCallback

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.evidence.parts import Parts
from sentence_transformers_mirror.evidence.verdict import Evidence
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.scalars import plain, whole_number
from sentence_transformers_mirror.terminal import quiet
from sentence_transformers_mirror.texts.corpus import load_corpus
from sentence_transformers_mirror.training.cached_loss import CachedMirrorLoss
from sentence_transformers_mirror.training.dropout import drophead, dropout_rate
from sentence_transformers_mirror.training.guard import Guard, Guarded, hold_out
from sentence_transformers_mirror.training.loss import MirrorLoss, groups_for
from sentence_transformers_mirror.training.modes import modes_kept, trained_in_float32, undisturbed
from sentence_transformers_mirror.training.recipes import Recipe, learning_rate_for, resolve
from sentence_transformers_mirror.training.saving import HISTORY, refuse_model, require_writable, save_whole
from sentence_transformers_mirror.training.trainer import Collator, MirrorTrainer, arguments
from sentence_transformers_mirror.training.views import TokenSpanMask

logger = logging.getLogger(__name__)


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
    model = load_model(model)
    if not model.supports("text"):
        modalities = ", ".join(map(str, model.modalities))
        raise ValueError(f"This model reads {modalities} and no text; mirror tuning needs a text encoder.")
    if prompt is None and model.default_prompt_name is not None:
        prompt = model.prompts.get(model.default_prompt_name)
    plan = _planned(model, texts, recipe, max_texts, seed, prompt, guard, split_sentences)
    if output_dir is not None:
        require_writable(Path(output_dir))
    result = _run(model, plan, seed, evaluator, callbacks or [], keep_worse)
    if output_dir is not None:
        # Before anything that can fail: minutes of tuning are in it.
        with quiet():
            save_whole(lambda folder: model.save_pretrained(str(folder)), output_dir)
    with modes_kept(model):
        result = replace(result, after=_evaluated(evaluator, model))
    if output_dir is not None:
        if result.after:
            _host.write_card(model, Path(output_dir))  # now with what the evaluator said
        history = json.dumps({**result.as_dict(), "seed": seed}, indent=1, default=str)
        Path(output_dir, HISTORY).write_text(history + "\n", encoding="utf-8")
    return result


@dataclass(frozen=True)
class TuningResult:
    """What a run of `mirror_tune` did.

    Attributes:
        steps: Number of steps of the optimiser.
        seconds: Wall-clock time of the training loop and of what the guard measures.
        losses: Loss of each step.
        texts: Number of texts that the model was tuned on.
        dropped: Number of texts left out, by reason.
        truncated: Share of a sample of 1,000 texts that are longer than the tokens read of them, in [0, 1].
        recipe: The recipe as run.
        precision: ``"bf16"`` (autocast, on float32 weights) or ``"fp32"``.
        interrupted: Whether Ctrl-C ended the run early; the model then holds the weights of the last step.
        before: What the evaluator returned before tuning; empty without one.
        after: What the evaluator returned after tuning; empty without one.
        guard: What the guard found and did; None where there was none.
    """

    steps: int
    seconds: float
    losses: list[float]
    texts: int
    dropped: dict[str, int]
    truncated: float
    recipe: Recipe
    precision: str
    interrupted: bool
    before: dict[str, float]
    after: dict[str, float]
    guard: Guarded | None

    @property
    def evidence(self) -> Evidence | None:
        """The guard's verdict on texts held out; None without a guard."""
        return None if self.guard is None else self.guard.evidence

    @property
    def kept_step(self) -> int:
        """The step whose weights the model has: the best that the guard saw, or the last; 0 are the original ones."""
        return self.steps if self.guard is None else self.guard.kept_step

    @property
    def averaged(self) -> bool:
        """Whether the guard kept the mean of that step's and the original weights, because it was better."""
        return self.guard is not None and self.guard.averaged

    @property
    def guard_seconds(self) -> float:
        """What of the time the guard took."""
        return 0.0 if self.guard is None else self.guard.seconds

    def as_dict(self) -> dict[str, Any]:
        """All of it in plain values, as ``mirror_tune.json`` keeps it; what the guard found stands beside the rest."""
        made = asdict(self)
        del made["guard"]
        return made | {
            "evidence": None if self.evidence is None else asdict(self.evidence),
            "kept_step": self.kept_step,
            "averaged": self.averaged,
            "guard_seconds": self.guard_seconds,
        }

    def summary(self) -> str:
        """A few lines that say what was done."""
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        span = max(1, min(10, len(self.losses) // 2))  # one step is noisy: means of ten, or of half of a short run
        first, last = sum(self.losses[:span]) / span, sum(self.losses[-span:]) / span
        losses = f"{first:.3f} -> {last:.3f} (first and last {span} steps)" if self.losses else "none"
        return (
            f"{'Stopped by Ctrl-C after' if self.interrupted else 'Tuned'} {self.steps} steps in "
            f"{self.seconds:.0f} s ({self.precision})\n"
            f"  loss       {losses}\n"
            f"  texts      {self.texts:,} (left out: {left_out})\n"
            f"  truncated  {self.truncated:.1%} of the texts are longer than {self.recipe.max_length} tokens\n"
            f"  guard      {self._guarded()}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.summary())}</pre>"

    def _guarded(self) -> str:
        if self.guard is None:
            return "none (the texts are single sentences, or fewer than 500 to 700)" if self.steps else "none"
        found, kept = self.guard.evidence, "the original weights are back"
        if self.kept_step:
            averaged = ", averaged with the original ones," if self.averaged else ""
            kept = f"the weights of step {self.kept_step}{averaged} are kept"
        return (
            f"{found.verdict} on {found.documents} texts set aside: mean reciprocal rank {found.difference:+.3f} "
            f"({found.low:+.3f} to {found.high:+.3f}); {kept}; measuring took {self.guard_seconds:.0f} s"
        )


@dataclass(frozen=True)
class _Plan:
    """What is tuned on, and how."""

    recipe: Recipe  # with a learning rate, and without what must not be taught
    loss: MirrorLoss
    dataset: Dataset  # texts, in a column ``text``, and perhaps titles, in ``title``
    dropped: dict[str, int]
    parts: Parts | None  # of the texts that were set aside; None without a guard
    prompt: str | None
    max_length: int  # tokens read of a text
    truncated: float  # share of the texts that have more


def _planned(
    model: SentenceTransformer,
    texts: str | Path | Dataset | Iterable[str | tuple[str, str]],
    recipe: Recipe,
    max_texts: int,
    seed: int,
    prompt: str | None,
    guard: bool | None,
    split_sentences: bool,
) -> _Plan:
    """Read the texts, set some aside for the guard, and complain about what is of no use."""
    if recipe.learning_rate is None:
        recipe = replace(recipe, learning_rate=learning_rate_for(sum(one.numel() for one in model.parameters())))
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
    loss = _loss(model, recipe)  # complains about models that it cannot tune
    max_length = min(recipe.max_length, model.max_seq_length or recipe.max_length)
    truncated = _share_truncated(model, dataset, max_length, prompt)
    if truncated > 0.2 and recipe.views is None:  # of documents each epoch reads other parts
        logger.warning(
            f"{truncated:.0%} of the texts are longer than the {max_length} tokens read of them; split them into "
            "sentences (split_sentences=True), or raise max_length."
        )
    return _Plan(recipe, loss, dataset, report.dropped, parts, prompt, max_length, truncated)


def _run(
    model: SentenceTransformer,
    plan: _Plan,
    seed: int,
    evaluator: BaseEvaluator | None,
    callbacks: list[TrainerCallback],
    keep_worse: bool,
) -> TuningResult:
    """Tune, and let the guard choose the weights; whatever breaks in leaves the model with its original ones."""
    recipe = plan.recipe
    # The Trainer wants a folder, though nothing is saved in it.
    with undisturbed(model), tempfile.TemporaryDirectory() as folder, trained_in_float32(model), ExitStack() as stack:
        before = _evaluated(evaluator, model)
        if recipe.dropout is not None:
            stack.enter_context(dropout_rate(model, recipe.dropout))
        if recipe.drophead:
            stack.enter_context(drophead(model, recipe.drophead))
        views = recipe.views
        trainer = MirrorTrainer(
            model=model,
            args=arguments(model.device, recipe, folder, seed, len(plan.dataset)),
            train_dataset=plan.dataset.select_columns("text") if views is None else plan.dataset.with_transform(views),
            loss=plan.loss,
            data_collator=Collator(preprocess_fn=model.preprocess, prompts=plan.prompt, max_length=plan.max_length),
            callbacks=callbacks,
        )
        guard = plan.parts and Guard(model, plan.parts, trainer.compute_loss_context_manager, plan.prompt)
        if guard:
            trainer.add_callback(guard)
        original = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        try:
            start = time.perf_counter()
            interrupted = trainer.take_steps()
            step = trainer.state.global_step
            guarded = guard.finish(step, original, keep_worse, seed) if guard and step else None
            seconds = time.perf_counter() - start
        except BaseException:
            model.load_state_dict(original)
            raise
        finally:
            _host.raise_versions([*model.parameters(), *model.buffers()])  # for an index that knows the model
    losses = trainer.progress.losses[:step].tolist()
    _host.describe_run(model, str(recipe), losses, trainer.state.epoch or 0)
    return TuningResult(
        steps=step,
        seconds=seconds,
        losses=losses,
        texts=len(plan.dataset),
        dropped=plan.dropped,
        truncated=plan.truncated,
        recipe=recipe,
        precision="bf16" if trainer.autocast_bf16 else "fp32",
        interrupted=interrupted,
        before=before,
        after={},
        guard=guarded,
    )


def _evaluated(evaluator: BaseEvaluator | None, model: SentenceTransformer) -> dict[str, float]:
    """What an evaluator says, in numbers of Python; one that returns a number says ``score``."""
    found = {} if evaluator is None else evaluator(model)
    found = found if isinstance(found, dict) else {"score": found}
    return {str(name): plain(value) for name, value in found.items()}


def _loss(model: SentenceTransformer, recipe: Recipe) -> MirrorLoss:
    mask = None if recipe.mask is None else TokenSpanMask(recipe.mask, recipe.mask_min_length)
    same, size, ids = recipe.ignore_duplicates, recipe.mini_batch_size, recipe.views is not None
    if size is None:
        groups = groups_for(model.device.type, 2 * recipe.batch_size, recipe.max_length)
        return MirrorLoss(model, recipe.temperature, mask, same, groups, labels_are_ids=ids)
    return CachedMirrorLoss(model, recipe.temperature, mask, same, size, labels_are_ids=ids)


def _share_truncated(model: SentenceTransformer, dataset: Dataset, max_length: int, prompt: str | None) -> float:
    # No token of natural text is 20 characters long on average: more characters than these need not be looked at.
    sample = [(prompt or "") + text[: 20 * max_length] for text in dataset[:: max(1, len(dataset) // 1000)]["text"]]
    tokens = model.tokenizer(sample, verbose=False)["input_ids"]
    return sum(len(ids) > max_length for ids in tokens) / len(tokens)
