"""What a run of tuning did, as an object, as a dictionary and in words."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

from sentence_transformers_mirror.evidence.verdict import Evidence
from sentence_transformers_mirror.training.guard import Guarded
from sentence_transformers_mirror.training.recipes import Recipe

HISTORY = "mirror_tune.json"  # the result of tuning, in the folder of the model


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
        return (
            f"{'Stopped by Ctrl-C after' if self.interrupted else 'Tuned'} {self.steps} steps in "
            f"{self.seconds:.0f} s ({self.precision})\n"
            f"  loss       {_first_to_last(self.losses)}\n"
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


def _first_to_last(losses: list[float]) -> str:
    """Means of ten steps each, or of half of a shorter run: single steps are noisy."""
    span = max(1, min(10, len(losses) // 2))
    if not losses:
        return "none"
    return f"{sum(losses[:span]) / span:.3f} -> {sum(losses[-span:]) / span:.3f} (first and last {span} steps)"
