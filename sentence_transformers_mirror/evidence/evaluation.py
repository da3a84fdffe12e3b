"""How good is an encoder where labels say so? Suites of labelled sets, scored as the field reports them.

Sentence and word pairs go through the host's own evaluator: Spearman's correlation of cosine similarity with the
labels, all subsets of a year concatenated ("all", as in the Mirror-BERT paper, and not the mean over subsets). Linking
is the share of mentions whose first, or one of whose first five, names in a dictionary is a right one.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ConstantInputWarning
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from sentence_transformers_mirror.embedding import embed
from sentence_transformers_mirror.evidence.labels import LINKING_SETS, Linking, Pairs, read_linking, read_pairs
from sentence_transformers_mirror.models import load_model
from sentence_transformers_mirror.terminal import bar

SUITES = {
    "sts": ["STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "STS-B dev", "SICK-R dev", "BIOSSES"]
    + ["STS17 ar-ar", "STS17 es-es"],
    "words": ["SimLex-999", "Multi-SimLex ENG", "Multi-SimLex FRA", "WordSim-353", "RareWord", "UMNSRS"],
    "linking": list(LINKING_SETS),
}
SEVEN = SUITES["sts"][:7]  # whose mean papers report as the average of STS

_TIE = 1e-6  # equal texts get cosines that differ in the seventh digit
_BLOCK = 256  # mentions at a time, to bound the memory of their similarities to all names


@dataclass(frozen=True)
class LabelledSet:
    """A set of a suite.

    Args:
        suite: ``sts``, ``words`` or ``linking``.
        name: The name of the set.
        metrics: The metrics that are reported for the set.
        evaluator: An evaluator for the host's Trainer or `mirror_tune`; None if the set is not in the folder.
        size: Number of pairs or mentions; 0 if the set is not there.
    """

    suite: str
    name: str
    metrics: tuple[str, ...]
    evaluator: LinkingEvaluator | EmbeddingSimilarityEvaluator | None
    size: int


@dataclass(frozen=True)
class Score:
    """One number, or the news that its set is not there.

    Args:
        suite: ``sts``, ``words`` or ``linking``.
        name: The name of the set.
        metric: ``spearman_cosine``, ``accuracy@1`` or ``accuracy@5``.
        value: The score times 100, as papers print it; None if the set is absent.
        size: Number of pairs or mentions; 0 if the set is absent.

    Example:
        >>> from sentence_transformers_mirror.evidence.evaluation import Score
        >>> score = Score("sts", "STS-B", "spearman_cosine", 65.2, 1379)
        >>> f"{score.name}: {score.value}"
        'STS-B: 65.2'
    """

    suite: str
    name: str
    metric: str
    value: float | None
    size: int


def evaluate(
    model: SentenceTransformer | str | Path, folder: str | Path, suite: str = "all", batch_size: int = 64
) -> list[Score]:
    """Score a model on the labelled sets in a folder.

    Args:
        model: A model, or its name or path; it is loaded once the sets were found to be whole.
        folder: The folder of the sets; see `labels` for their formats.
        suite: ``sts``, ``words``, ``linking`` or ``all``.
        batch_size: Number of texts of pairs that the host embeds at a time.

    Returns:
        A score for each metric of each set of the suite, absent ones included; for ``sts`` also the average of the
        seven sets that papers report, absent if one of them is.

    Raises:
        FileNotFoundError: If there is no such folder, or none of the sets is in it.
        OSError: If the model cannot be loaded.
        ValueError: If there is no such suite, a set is damaged, or all vectors of the model are equal.

    Example:
        >>> from pathlib import Path
        >>> from sentence_transformers_mirror import embedded_model_path, evaluate
        >>> Path("labelled").mkdir()
        >>> pairs = ["5\\ta dog\\tthe dog", "3\\ta dog\\ta cat", "0\\ta dog\\ta loan"]
        >>> table = "\\n".join(["score\\tsentence1\\tsentence2", *pairs])
        >>> _ = Path("labelled", "STSB.test.tsv").write_text(table)
        >>> scores = evaluate(embedded_model_path(), "labelled", "sts")
        >>> [round(score.value) for score in scores if score.name == "STS-B"]
        [100]
    """
    scores = []
    sets = labelled_sets(folder, suite, batch_size)
    if not any(one.size for one in sets):
        raise FileNotFoundError(
            f"{str(folder)!r} has none of the sets of {suite!r} ({', '.join(one.name for one in sets)}): name the "
            "folder that holds them."
        )
    model = load_model(model)
    for one in sets:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # what it leads to is told below
            found = {} if one.evaluator is None else one.evaluator(model)
        for metric in one.metrics:
            value = found.get(f"{one.name}_{metric}")
            if value is not None and math.isnan(value):
                raise ValueError(
                    f"The model finds all pairs of {one.name} equally alike, so there is no correlation: it has "
                    "collapsed; load it anew, or tune it at a lower learning rate."
                )
            scores.append(Score(one.suite, one.name, metric, None if value is None else 100 * float(value), one.size))
    if suite in ("sts", "all"):
        seven = [score for score in scores if score.name in SEVEN]
        values = [score.value for score in seven if score.value is not None]
        whole = len(values) == len(seven)
        mean, size = (statistics.mean(values), sum(score.size for score in seven)) if whole else (None, 0)
        scores.append(Score("sts", "average of seven", seven[0].metric, mean, size))
    return scores


def labelled_sets(folder: str | Path, suite: str = "all", batch_size: int = 64) -> list[LabelledSet]:
    """The sets of a suite, absent ones included.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is no such suite, or a set is damaged.
    """
    if suite not in (*SUITES, "all"):
        raise ValueError(f"There is no suite {suite!r}; the suites are {', '.join(SUITES)} and all.")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}: name the one that holds the labelled sets.")
    found = []
    for kind in SUITES if suite == "all" else [suite]:
        metrics = ("accuracy@1", "accuracy@5") if kind == "linking" else ("spearman_cosine",)
        for name in SUITES[kind]:
            labels = read_linking(folder, name) if kind == "linking" else read_pairs(folder, name)
            evaluator = None if labels is None else _evaluator(labels, name, batch_size)
            found.append(LabelledSet(kind, name, metrics, evaluator, 0 if labels is None else len(labels)))
    return found


def _evaluator(labels: Linking | Pairs, name: str, batch_size: int) -> LinkingEvaluator | EmbeddingSimilarityEvaluator:
    if isinstance(labels, Linking):
        return LinkingEvaluator(labels, name)
    return EmbeddingSimilarityEvaluator(
        labels.first,
        labels.second,
        labels.scores,
        batch_size=batch_size,
        main_similarity="cosine",
        similarity_fn_names=["cosine"],
        name=name,
        show_progress_bar=False,
        write_csv=False,
    )


class LinkingEvaluator(BaseEvaluator):
    """Accuracy of linking mentions to the names of a dictionary, by cosine similarity.

    Not the host's InformationRetrievalEvaluator, which breaks ties by luck: an encoder that makes the same vector of
    everything may look perfect to it.
    """

    def __init__(self, linking: Linking, name: str = "") -> None:
        super().__init__()
        self.linking, self.name = linking, name

    def __call__(  # type: ignore[override]  # of its own models only, as the host's are
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        mentions, names = self.linking.mentions, self.linking.names
        shown = None if len(names) > 10_000 else False
        with bar(total=len(mentions) + len(names), desc=self.name, show=shown) as drawn:
            vectors = embed(model, [*mentions, *names], done=drawn.update, normalize_embeddings=True)
        ranks = link_ranks(vectors[: len(mentions)], vectors[len(mentions) :], self.linking.gold, self.linking.ids)
        metrics = {f"accuracy@{k}": float((ranks <= k).mean()) for k in (1, 5)}
        self.primary_metric = "accuracy@1"  # the host puts the name before it, each time
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def link_ranks(
    mentions: np.ndarray, names: np.ndarray, gold: Sequence[frozenset[str]], ids: Sequence[frozenset[str]]
) -> np.ndarray:
    """Rank of the first right name of each mention, by unit vectors; a name is right if it shares an id with it.

    Names within 1e-6 of the best right one tie with it. Among ties the rank is the mean over all their orders: with r
    right and w wrong names tied, w / (r + 1) wrong ones come before the first right one.
    """
    if not np.isfinite(mentions).all() or not np.isfinite(names).all():
        raise ValueError("The model made vectors that are not numbers; tune it at a lower learning rate or reload it.")
    having: defaultdict[str, set[int]] = defaultdict(set)
    for number, held in enumerate(ids):
        for item in held:
            having[item].add(number)
    ranks = np.empty(len(mentions))
    for start in range(0, len(mentions), _BLOCK):
        scores = mentions[start : start + _BLOCK] @ names.T
        for row, line in enumerate(scores, start=start):
            right = line[list(set().union(*(having[item] for item in gold[row])))]
            if not len(right):
                raise ValueError(f"No name has one of the ids {', '.join(sorted(gold[row]))}: add it or drop them.")
            best = right.max()
            tied = int((right >= best - _TIE).sum())
            nearer = int((line > best + _TIE).sum())
            wrong = int((line >= best - _TIE).sum()) - nearer - tied
            ranks[row] = 1 + nearer + wrong / (tied + 1)
    return ranks
