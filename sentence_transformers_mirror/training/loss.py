"""NT-Xent over two views of every text, as a loss for sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from sentence_transformers.util import all_gather, all_gather_with_grad, get_rank
from torch import Tensor, nn

from sentence_transformers_mirror import _host
from sentence_transformers_mirror.fast_cpu import fast_on_cpu
from sentence_transformers_mirror.training.dropout import has_dropout
from sentence_transformers_mirror.training.packing import embed_packed
from sentence_transformers_mirror.training.views import TokenSpanMask

# A feature that a collator may add: the attention mask as a NumPy array, which stays on the host when tensors move to
# the device, so that the lengths of rows are known without waiting for it.
LAYOUT = "layout"


def nt_xent(
    a: Tensor,
    b: Tensor,
    temperature: float,
    *,
    row_ids: Tensor | None = None,
    negatives: Tensor | None = None,
    negative_ids: Tensor | None = None,
    anchors: slice = slice(None),
) -> Tensor:
    """Symmetric NT-Xent: each of the 2N views is an anchor, its other view the positive, all others negatives.

    The mean over anchors of the cross-entropy of the positive among 2N-1 candidates (plus the negatives) by cosine
    similarity over temperature. The positive is in the denominator, as in the code that the Mirror-BERT paper
    (arXiv 2104.08027, section 2.2) released and unlike its equation 1. Similarities are computed in at least float32,
    outside autocast: at temperature 0.04 the rounding of bfloat16 would move a logit by 0.05.

    Args:
        a: First views, shape (N, dim).
        b: Second views, shape (N, dim); row i belongs to row i of ``a``.
        temperature: The number, above 0, that cosine similarities are divided by.
        row_ids: What the rows are, integers of shape (N,) or (N, m). Rows that share any id are the same text and
            no negatives of each other.
        negatives: Further negatives of every anchor, shape (M, dim).
        negative_ids: What the negatives are, shape (M,); one that shares an id with a row is left out for it.
        anchors: The rows whose two views are anchors; all by default. The mean over equal, disjoint slices is the
            whole loss, which is how work is divided over devices.

    Returns:
        A scalar; 0 for a single row without negatives.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> from sentence_transformers_mirror import nt_xent
        >>> a, b = torch.eye(2, 3), torch.eye(2, 3)
        >>> round(nt_xent(a, b, temperature=0.5).item(), 3)
        0.24
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; the paper uses 0.04 for sentences.")
    with torch.autocast(a.device.type, enabled=False):
        candidates = normalized(a, b, negatives)
        itself, positive, excluded = compared(candidates, len(a), anchors, row_ids, negative_ids)
        logits = candidates[itself] @ candidates.T / temperature
        return F.cross_entropy(logits.masked_fill(excluded, -torch.inf), positive)


def normalized(a: Tensor, b: Tensor, negatives: Tensor | None) -> Tensor:
    """All candidates of :func:`nt_xent` at unit length and in at least float32: (2N or 2N + M, dim)."""
    candidates = torch.cat([a, b] if negatives is None else [a, b, negatives])
    return F.normalize(candidates.to(torch.promote_types(a.dtype, torch.float32)), dim=-1)


def compared(
    candidates: Tensor, rows: int, anchors: slice, row_ids: Tensor | None, negative_ids: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the anchors of :func:`nt_xent`, the n rows of a slice, are compared with.

    Returns:
        Where each of the 2n views and its positive are among the candidates, shape (2n,), and which candidates do not
        count for it: itself and other rows of the same text, a boolean (2n, candidates).
    """
    index = torch.arange(rows, device=candidates.device)[anchors]
    itself, positive = torch.cat([index, index + rows]), torch.cat([index + rows, index])
    excluded = torch.zeros(len(itself), len(candidates), dtype=torch.bool, device=candidates.device)
    if row_ids is not None:
        ids = row_ids.reshape(rows, -1)
        excluded[:, : 2 * rows] = _share_id(ids[anchors], ids).repeat(2, 2)
        if negative_ids is not None:
            excluded[:, 2 * rows :] = _share_id(ids[anchors], negative_ids.reshape(-1, 1)).repeat(2, 1)
    excluded.scatter_(1, itself[:, None], True)
    excluded.scatter_(1, positive[:, None], False)
    return itself, positive, excluded


def _share_id(x: Tensor, y: Tensor) -> Tensor:
    """Which rows of x, shape (n, p), share an id with which rows of y, shape (m, q): a boolean (n, m)."""
    shared = torch.zeros(len(x), len(y), dtype=torch.bool, device=x.device)
    for i in range(x.shape[1]):
        for j in range(y.shape[1]):
            shared |= x[:, i, None] == y[None, :, j]
    return shared


def text_ids(features: dict[str, Tensor]) -> Tensor:
    """A 64-bit hash of each row's tokens: equal for equal texts, whatever their padding.

    Args:
        features: ``input_ids`` and ``attention_mask``, shape (rows, tokens).

    Returns:
        int64 of shape (rows,), computed on the device of the tokens without synchronising with it. Two different
        texts collide with a chance of about 2**-63.
    """
    mask = features["attention_mask"].long()
    # The finaliser of splitmix64 on (token, position among the real tokens); int64 arithmetic wraps on every device.
    x = features["input_ids"] * -7046029254386353131 + mask.cumsum(1) * -4658895280553007687
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return ((x ^ (x >> 31)) * mask).sum(1)


def groups_for(device: str, rows: int) -> int:
    """Forward passes that a batch of so many rows is cut into; the same for batches of any lengths, as DDP needs.

    More of them save padding, and fewer keep the matrices large. What was fastest on two cores, for 32 to 400 rows,
    grows like the square root of the rows; a GPU that computes less than a third of the time wants no more passes.
    """
    wanted = int(rows**0.5 / 2.5) if device == "cpu" else rows // 1024
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
            1. Texts; no labels. One column is enough.
            2. Dropout in the model, or a mask: without both the two views would be identical.

        Inputs:
            +------------------------------------------+--------------------------+
            | Texts                                    | Labels                   |
            +==========================================+==========================+
            | single texts                             | none, or ids (see above) |
            +------------------------------------------+--------------------------+
            | (anchor, positive) pairs                 | none, or ids             |
            +------------------------------------------+--------------------------+
            | (anchor, positive, negative_1, ...)      | none, or ids             |
            +------------------------------------------+--------------------------+

            Two columns are taken as the two views, as they are. Further columns are negatives of every anchor.

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
            >>> trainer = SentenceTransformerTrainer(
            ...     model=model,
            ...     train_dataset=train_dataset,
            ...     loss=MirrorLoss(model),
            ... )
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
        columns, layout, ids = self._columns(sentence_features)
        groups = self.groups or groups_for(columns[0]["input_ids"].device.type, sum(map(len, layout)))
        with fast_on_cpu(self.model):
            embeddings = embed_packed(self.model, columns, groups, layout)
        return nt_xent(temperature=self.temperature, **self._gathered(embeddings, ids, labels))

    def _columns(
        self, sentence_features: Iterable[dict[str, Tensor]]
    ) -> tuple[list[dict], list[Tensor], list[Tensor]]:
        """Features with the second view among them, the layout to pack them by, and what texts they are."""
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
        return columns, layout, ids

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

    def _gathered(self, embeddings: list[Tensor], ids: list[Tensor], labels: Tensor | None = None) -> dict[str, Any]:
        """Arguments of `nt_xent`: the embeddings of this rank as anchors, among those of all ranks if asked for."""
        a, b, *further = embeddings
        rows = len(a)
        negatives = torch.cat(further) if further else None
        of_rows = [*ids[:2], *self._document_ids(labels, rows)]
        row_ids = torch.stack(of_rows, dim=1) if of_rows else None
        negative_ids = torch.cat(ids[2:]) if ids[2:] else None
        rank = 0
        if self.gather_across_devices:
            rank = get_rank()
            a, b, negatives = (None if x is None else all_gather_with_grad(x) for x in (a, b, negatives))
            row_ids, negative_ids = (None if x is None else all_gather(x) for x in (row_ids, negative_ids))
        return {
            "a": a,
            "b": b,
            "row_ids": row_ids,
            "negatives": negatives,
            "negative_ids": negative_ids,
            "anchors": slice(rank * rows, (rank + 1) * rows),
        }

    def _document_ids(self, labels: Tensor | None, rows: int) -> list[Tensor]:
        if not self.labels_are_ids:
            return []
        if labels is None or labels.shape != (rows,) or labels.is_floating_point():
            raise ValueError(
                "labels_are_ids=True needs a column 'label' of integers, one for each row: use DocumentViews, which "
                "makes it, or labels_are_ids=False."
            )
        return [labels]

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "mask": None if self.mask is None else self.mask.get_config_dict(),
            "ignore_duplicates": self.ignore_duplicates,
            "groups": self.groups,
            "gather_across_devices": self.gather_across_devices,
            "labels_are_ids": self.labels_are_ids,
        }

    @property
    def citation(self) -> str:
        return """
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
    routes = [route[0] for route in first.sub_modules.values()] if isinstance(first, Router) else [first]
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
