"""NT-Xent over two views of every text, as a loss for sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from sentence_transformers.util import all_gather, all_gather_with_grad, get_rank
from torch import Tensor, nn

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.fast_cpu import fast_on_cpu
from sentence_transformers_mirror.training.dropout import has_dropout
from sentence_transformers_mirror.training.nt_xent import nt_xent
from sentence_transformers_mirror.training.packing import embed_packed
from sentence_transformers_mirror.training.views import TokenSpanMask

# A feature that a collator may add: the attention mask as a NumPy array, which stays on the host when tensors move to
# the device, so that the lengths of rows are known without waiting for it.
LAYOUT = "layout"


@dataclass(frozen=True)
class Batch:
    """What a step embeds and compares."""

    columns: list[dict[str, Tensor]]  # features of the anchors, of the positives, and of further negatives
    layout: list[Tensor]  # attention mask of each column, on the host where a collator left it there
    row_ids: list[Tensor]  # each of shape (rows,); rows that share one are no negatives of each other
    negative_ids: list[Tensor]  # of the further negatives, one tensor a column


def text_ids(features: dict[str, Tensor]) -> Tensor:
    """A hash of each row's tokens, int64 of shape (rows,): equal for equal texts, whatever their padding."""
    mask = features["attention_mask"].long()
    # On the device of the tokens, without waiting for it; two different texts collide with a chance of about 2**-63.
    # The finaliser of splitmix64 on (token, position among the real tokens); int64 arithmetic wraps on every device.
    x = features["input_ids"] * -7046029254386353131 + mask.cumsum(1) * -4658895280553007687
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return ((x ^ (x >> 31)) * mask).sum(1)


def groups_for(device: str, rows: int, tokens: int = 50) -> int:
    """Forward passes for so many rows, of so many tokens at most; the same for any lengths, as DDP needs."""
    # More of them save padding, and fewer keep the matrices large. What was fastest on two cores, for 32 to 400 rows
    # of up to 50 tokens and for 64 and 128 of up to 96, grows like the square root of both; a GPU that computes less
    # than a third of the time wants no more passes.
    wanted = int((rows * max(1, tokens / 50)) ** 0.5 / 2.5) if device == "cpu" else rows // 1024
    return max(1, min(8, wanted))


class MirrorLoss(nn.Module):
    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = 0.04,
        mask: TokenSpanMask | None = TokenSpanMask(),
        ignore_duplicates: bool = True,
        groups: int | None = None,
        gather_across_devices: bool = False,
        labels_are_ids: bool = False,
    ) -> None:
        """
        Mirror-BERT: an encoder learns from raw text alone. Every text is its own positive: two views of it, made
        different by input masking and dropout, are pulled together, and all other texts of the batch are pushed away.

        Args:
            model: The SentenceTransformer to tune.
            temperature: The number that cosine similarities are divided by. The paper uses 0.04 for sentences and
                phrases, and 0.2 for words.
            mask: What makes the second view of a single text column; see
                :class:`~sentence_transformers_mirror.TokenSpanMask`. With None only dropout tells the views apart.
            ignore_duplicates: Whether equal texts in a batch are left out of each other's negatives. False is what
                the paper's code does.
            groups: Number of forward passes for a batch, rows of like length together, so that little padding is
                computed; 1 pads the batch to its longest row. None chooses by the device and the rows of all views,
                see `groups_for`: 8 for 400 rows on a CPU, 1 for up to 2,047 on a GPU.
            gather_across_devices: Whether the texts of all ranks are negatives in distributed training.
            labels_are_ids: Whether rows with equal labels are of one document and no negatives of each other, as
                :class:`~sentence_transformers_mirror.DocumentViews` labels them. Otherwise labels are ignored.

        References:
            - Fast, Effective, and Self-Supervised: Transforming Masked Language Models into Universal Lexical and
              Sentence Encoders, https://arxiv.org/abs/2104.08027

        Requirements:
            Dropout in the model, or a mask: without both the two views would be identical.

        Inputs:
            Texts, in one column; pairs (anchor, positive), in two, which are taken as the two views, as they are; or
            (anchor, positive, negative_1, ...), whose further columns are negatives of every anchor. Labels are
            none, or ids.

        Recommendations:
            - A large batch (200 and more): the other texts in it are all that there is to learn from.
            - ``gradient_accumulation_steps`` does not add negatives; a larger batch does.
            - With the legacy ``model.fit`` pass ``warmup_steps=0``: its default of 10,000 is longer than the run.

        Relations:
            - :class:`~sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss` on two identical
              columns is SimCSE: dropout only, one direction, half the negatives.

        Example:
            >>> from datasets import Dataset
            >>> from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
            >>> from sentence_transformers_mirror import MirrorLoss, embedded_model_path
            >>> model = SentenceTransformer(embedded_model_path())
            >>> train_dataset = Dataset.from_dict({"text": ["It's nice weather today.", "He drove to work."]})
            >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=train_dataset, loss=MirrorLoss(model))
            >>> trainer.train().global_step
            {'train_runtime': ...}
            3

        Raises:
            ValueError: If the temperature is not above 0, groups is below 1, or the model reads no text; in a step, if
                labels are ids and there are none.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}; the paper uses 0.04 for sentences.")
        if groups is not None and groups < 1:
            raise ValueError(f"groups must be at least 1, not {groups}; None chooses by the device.")
        self.model = model
        self.temperature = temperature
        self.mask = None if mask is None else mask.bind(_one_tokenizer(model))
        self.ignore_duplicates = ignore_duplicates
        self.groups = groups
        self.gather_across_devices = gather_across_devices
        self.labels_are_ids = labels_are_ids

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        batch = self.batch(sentence_features, labels)
        groups = self.groups or groups_for(batch.columns[0]["input_ids"].device.type, sum(map(len, batch.layout)))
        with fast_on_cpu(self.model):
            embeddings = embed_packed(self.model, batch.columns, groups, batch.layout)
        return nt_xent(temperature=self.temperature, **self.gathered(embeddings, batch))

    def batch(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Batch:
        """What a step embeds, with the second view among it; for a loss that embeds in another way."""
        if _host.in_adaptive_layer_loss(self.model):
            raise ValueError(
                "AdaptiveLayerLoss looks for layers in features that MirrorLoss makes anew for each pass; for smaller "
                "models use MatryoshkaLoss around MirrorLoss, which shortens embeddings instead of models."
            )
        columns = [dict(features) for features in sentence_features]
        for features in columns:
            _require_padded_tokens(features)
        layout = [
            torch.from_numpy(features.pop(LAYOUT)) if LAYOUT in features else features["attention_mask"]
            for features in columns
        ]
        ids = [text_ids(features) for features in columns] if self.ignore_duplicates else []
        if len(columns) == 1:
            columns.append(self._second_view(columns[0]))
            layout *= 2
        row_ids = ids[:2]
        if self.labels_are_ids:
            if labels is None or labels.shape != (len(layout[0]),) or labels.is_floating_point():
                raise ValueError(
                    "labels_are_ids=True needs a column 'label' of integers, one for each row: use DocumentViews, "
                    "which makes it, or labels_are_ids=False."
                )
            row_ids.append(labels)
        return Batch(columns, layout, row_ids, ids[2:])

    def _second_view(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        # Not self.training: the Trainer never puts the loss into evaluation mode.
        if self.mask is None:
            if self.model.training and not has_dropout(self.model):
                raise ValueError(
                    "The two views of a text would be identical, with nothing to learn from: this model has no "
                    "dropout and the loss no mask. Pass mask=TokenSpanMask(), or train in dropout_rate(model, 0.1)."
                )
            return dict(features)
        generator = None
        if not self.model.training:
            # No dropout in evaluation: only a mask tells the views apart, and a fixed one makes the loss comparable.
            generator = torch.Generator(features["input_ids"].device).manual_seed(0)
        return self.mask(features, generator)

    def gathered(self, embeddings: list[Tensor], batch: Batch) -> dict[str, Any]:
        """Arguments of `nt_xent`: the embeddings of this rank as anchors, among those of all ranks if asked for."""
        a, b, *further = embeddings
        vectors = {"a": a, "b": b, **({"negatives": torch.cat(further)} if further else {})}
        ids = {"row_ids": torch.stack(batch.row_ids, dim=1)} if batch.row_ids else {}
        if batch.negative_ids:
            ids["negative_ids"] = torch.cat(batch.negative_ids)
        rank = 0
        if self.gather_across_devices:
            rank = get_rank()
            vectors = {name: all_gather_with_grad(x) for name, x in vectors.items()}
            ids = {name: all_gather(x) for name, x in ids.items()}
        return {**vectors, **ids, "anchors": slice(rank * len(a), (rank + 1) * len(a))}

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "mask": None if self.mask is None else self.mask.get_config_dict(),
            "ignore_duplicates": self.ignore_duplicates,
            "groups": self.groups,
            "gather_across_devices": self.gather_across_devices,
            "labels_are_ids": self.labels_are_ids,
        }

    citation = """
@inproceedings{liu2021fast,
      title={Fast, Effective, and Self-Supervised: Transforming Masked Language Models into Universal Lexical and Sentence Encoders},
      author={Fangyu Liu and Ivan Vuli{\\'c} and Anna Korhonen and Nigel Collier},
      booktitle={Proceedings of the 2021 Conference on Empirical Methods in Natural Language Processing},
      year={2021},
      eprint={2104.08027},
      archivePrefix={arXiv},
      primaryClass={cs.CL},
      url={https://arxiv.org/abs/2104.08027},
}
"""  # noqa: E501


def _one_tokenizer(model: SentenceTransformer) -> Any:
    """The tokenizer of all routes of a model; masks are drawn with the vocabulary of one."""
    first = model[0]
    routes = [next(route.children()) for route in first.sub_modules.values()] if isinstance(first, Router) else [first]
    tokenizers = [getattr(route, "tokenizer", None) for route in routes]
    vocabularies = [None if tokenizer is None else tokenizer.get_vocab() for tokenizer in tokenizers]
    if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
        raise ValueError(
            "The routes of this model read different vocabularies; pass mask=None (dropout alone makes the views), or "
            "tune each route as a model of its own."
        )
    return tokenizers[0]


def _require_padded_tokens(features: dict[str, Any]) -> None:
    ids = features.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or "attention_mask" not in features:
        raise ValueError(
            "MirrorLoss needs padded token ids of shape (rows, tokens) with an attention mask: use a transformer text "
            "encoder (no image, audio or static embedding model), and with flash attention load it with unpadding off "
            f"(unpad_inputs=False). These features have: {', '.join(sorted(features))}."
        )
