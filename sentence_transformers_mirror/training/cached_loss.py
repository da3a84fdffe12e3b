"""MirrorLoss at constant memory, through the host's gradient cache."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.fast_cpu import fast_on_cpu
from sentence_transformers_mirror.training.dropout import dropout_state
from sentence_transformers_mirror.training.loss import MirrorLoss
from sentence_transformers_mirror.training.nt_xent import chunked_nt_xent
from sentence_transformers_mirror.training.packing import pack
from sentence_transformers_mirror.training.views import TokenSpanMask


class CachedMirrorLoss(_host.CachedLossMixin, MirrorLoss):
    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = 0.04,
        mask: TokenSpanMask | None = TokenSpanMask(),
        ignore_duplicates: bool = True,
        mini_batch_size: int = 64,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
        labels_are_ids: bool = False,
    ) -> None:
        """
        :class:`MirrorLoss` for batches that do not fit into memory: the same value and the same gradients, at the
        memory of one mini-batch (GradCache). All texts of the batch remain each other's negatives, which gradient
        accumulation does not do. Everything is embedded twice, so :class:`MirrorLoss` is faster where
        the batch fits.

        Args:
            model: The SentenceTransformer to tune.
            temperature, ignore_duplicates, gather_across_devices, labels_are_ids: As in :class:`MirrorLoss`.
            mask: As in :class:`MirrorLoss`; drawn once a batch, before anything is embedded.
            mini_batch_size: Number of rows embedded at a time; it sets the memory and changes no result.
            show_progress_bar: Whether to show a bar over the mini-batches of a step.

        References:
            - Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, https://arxiv.org/abs/2101.06983

        Requirements:
            1. As :class:`MirrorLoss`, and the same inputs.
            2. A `dropout_rate` or `drophead` context has to stay open until ``backward`` has returned.

        Recommendations:
            - Not together with gradient checkpointing, which saves the same memory again at the cost of time.

        Example:
            >>> from datasets import Dataset
            >>> from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
            >>> from sentence_transformers import SentenceTransformerTrainingArguments
            >>> from sentence_transformers_mirror import CachedMirrorLoss, embedded_model_path
            >>> model = SentenceTransformer(embedded_model_path())
            >>> train_dataset = Dataset.from_dict({"text": ["It's nice weather today.", "He drove to work."]})
            >>> args = SentenceTransformerTrainingArguments(output_dir="tuned", per_device_train_batch_size=8192)
            >>> loss = CachedMirrorLoss(model, mini_batch_size=64)
            >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=train_dataset, loss=loss)
            >>> trainer.train().global_step
            {'train_runtime': ...}
            3

        Raises:
            ValueError: If the temperature is not above 0, mini_batch_size is below 1, or the model reads no text.
            RuntimeError: In ``backward``, if the dropout of the model changed since the loss was computed.
        """
        super().__init__(model, temperature, mask, ignore_duplicates, None, gather_across_devices, labels_are_ids)
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be at least 1, not {mini_batch_size}; 64 is a good start.")
        self.mini_batch_size = mini_batch_size
        self.show_progress_bar = show_progress_bar

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        batch = self.batch(sentence_features, labels)
        packed = pack(batch.columns, self._mini_batches, batch.layout)
        # The host hands what it calls labels through to calculate_loss; kept there, two steps cannot mix.
        step: Any = packed, batch
        return self.forward_cached(packed.parts, step)

    def _mini_batches(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Rows of like length together; as many mini-batches for any lengths, as DDP needs."""
        order = np.argsort(lengths, kind="stable")
        return np.split(order, range(self.mini_batch_size, len(order), self.mini_batch_size))

    # The host says what labels and random states are, and only hands them through: here a step and a _Replay.
    def calculate_loss(self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False) -> Tensor:
        packed, batch = labels
        embeddings = packed.unpack([torch.cat(part) for part in reps])
        loss = chunked_nt_xent(temperature=self.temperature, **self.gathered(embeddings, batch))
        if with_backward:
            loss.backward()
        return loss

    def embed_minibatch(
        self, sentence_feature: dict[str, Tensor], *args: Any, random_state: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        device, dropout = sentence_feature["input_ids"].device.type, dropout_state(self.model)
        if random_state is None:  # the first pass
            autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            replay = _Replay(None, dropout, *autocast)
        else:
            replay = random_state
        if replay.dropout != dropout:
            raise RuntimeError(
                "The dropout of the model changed between the loss and backward, so the gradients would be those of "
                "other embeddings; keep the dropout_rate or drophead context open, and the model in training mode, "
                "until backward has returned."
            )
        # A Trainer leaves its autocast region before it calls backward.
        with torch.autocast(device, replay.dtype, replay.autocast), fast_on_cpu(self.model):
            kwargs["random_state"] = replay.context
            embeddings, context = super().embed_minibatch(sentence_feature, *args, **kwargs)
        return embeddings, replay._replace(context=context)

    def get_config_dict(self) -> dict[str, Any]:
        config = super().get_config_dict() | {"mini_batch_size": self.mini_batch_size}
        del config["groups"]
        return config


class _Replay(NamedTuple):
    """What the second pass over a mini-batch needs to equal the first."""

    context: AbstractContextManager | None
    dropout: tuple[object, ...]
    autocast: bool
    dtype: torch.dtype
