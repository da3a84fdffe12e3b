"""What each part of the method is worth on the embedded model: one change at a time, three seeds each.

Sentence studies tune on the paper's 10,000 sentences; choices are made on STS-B dev and reported on STS12-15 and STS-B
test. Word studies tune on the paper's 10,000 words, chosen on SimLex-999 and reported on Multi-SimLex (English). All
numbers are Spearman x 100 of cosine similarity. Each study varies one thing and leaves the rest as in the recipe named
`sentence` (`word`), with the learning rate for small models. Each finished seed is kept and not run again.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from benchmarks.common import (
    RESULTS,
    add_data,
    add_jobs,
    earlier,
    finish,
    keep,
    paper_sentences,
    paper_words,
    parser,
    read,
    spearman,
)
from benchmarks.markdown import score, source, table
from sentence_transformers_mirror import (
    RECIPES,
    CharSpanMask,
    MirrorLoss,
    Recipe,
    TokenSpanMask,
    drophead,
    dropout_rate,
    embedded_model_path,
    nt_xent,
)
from sentence_transformers_mirror._host import has_native_bf16
from sentence_transformers_mirror.evidence.labels import Pairs, read_pairs

BF16 = has_native_bf16(torch.device("cpu"))


class TokenMask(TokenSpanMask):
    """Spans that begin and end anywhere, instead of at the borders of words."""

    def bind(self, tokenizer):
        bound = super().bind(tokenizer)
        bound.starts_word.fill_(True)
        return bound


class SameDropout(MirrorLoss):
    """Both views of a text lose the same activations: only the mask tells them apart."""

    def forward(self, sentence_features, labels=None):
        batch = self.batch(sentence_features)
        state = torch.get_rng_state()
        embeddings = []
        for features in batch.columns:
            torch.set_rng_state(state)
            embeddings.append(self.model(features)["sentence_embedding"])
        return nt_xent(temperature=self.temperature, **self.gathered(embeddings, batch))


class NoiseNegatives(MirrorLoss):
    """Gaussian vectors as further negatives, as many as texts (GS-InfoNCE, arXiv 2109.04321)."""

    def gathered(self, embeddings, batch):
        plain = replace(batch, row_ids=[], negative_ids=[])
        return super().gathered([*embeddings, torch.randn_like(embeddings[0].float())], plain)


class MixedNegatives(MirrorLoss):
    """A fifth of each positive mixed into another text's, as a further, harder negative (MixCSE, arXiv 2204.03955)."""

    def gathered(self, embeddings, batch):
        positives = F.normalize(embeddings[1].detach().float(), dim=-1)
        mixed = 0.2 * positives + 0.8 * positives.roll(1, 0)
        return super().gathered([*embeddings, mixed], replace(batch, row_ids=[], negative_ids=[]))


def repeat_words(text: str) -> str:
    """Up to 0.32 of the words said twice (ESimCSE, arXiv 2109.04380)."""
    words = text.split()
    twice = set(
        random.sample(range(len(words)), random.randint(0, max(2, int(0.32 * len(words))) if len(words) > 2 else 0))
    )
    return " ".join(f"{word} {word}" if i in twice else word for i, word in enumerate(words))


@dataclass
class Variant:
    """One way to tune: a recipe, and what no recipe can say."""

    recipe: Recipe
    pooling: str = "mean"
    loss: Callable[..., MirrorLoss] = MirrorLoss
    mask: type[TokenSpanMask] = TokenSpanMask
    second_view: Callable[[SentenceTransformer], Callable[[str], str]] | None = None
    texts: int | None = None
    distinct: bool = True

    def tune(self, texts: list[str], seed: int, path: str | None = None) -> SentenceTransformer:
        recipe = self.recipe
        transformer = Transformer(path or embedded_model_path())
        model = SentenceTransformer(
            modules=[transformer, Pooling(transformer.get_embedding_dimension(), self.pooling)], device="cpu"
        )
        random.seed(seed)
        torch.manual_seed(seed)
        texts = list(dict.fromkeys(texts)) if self.distinct else list(texts)
        if self.texts is not None:
            texts = random.sample(texts, self.texts)
        mask = None if recipe.mask is None else self.mask(recipe.mask, recipe.mask_min_length)
        loss = self.loss(model, recipe.temperature, mask, recipe.ignore_duplicates)
        second_view = None if self.second_view is None else self.second_view(model)
        optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        length = model.max_seq_length
        model.max_seq_length = recipe.max_length
        with ExitStack() as stack:
            stack.enter_context(dropout_rate(model, recipe.dropout))
            if recipe.drophead:
                stack.enter_context(drophead(model, recipe.drophead))
            model.train()
            for _ in range(recipe.epochs):
                random.shuffle(texts)
                for begin in range(0, len(texts) - recipe.batch_size + 1, recipe.batch_size):
                    batch = texts[begin : begin + recipe.batch_size]
                    columns = [batch] if second_view is None else [batch, [second_view(text) for text in batch]]
                    with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
                        value = loss([model.preprocess(column) for column in columns])
                    value.backward()
                    optimizer.step()
                    optimizer.zero_grad()
        model.max_seq_length = length
        return model.eval()


def identical(model: SentenceTransformer) -> Callable[[str], str]:
    return lambda text: text


def char_span(model: SentenceTransformer) -> Callable[[str], str]:
    return CharSpanMask(model.tokenizer)


def repetition(model: SentenceTransformer) -> Callable[[str], str]:
    return repeat_words


# Not RECIPES["sentence-small"], which was chosen by these studies.
SENTENCE = replace(RECIPES["sentence"], learning_rate=1e-4)
UNMASKED = replace(SENTENCE, mask=None)
WORD = replace(RECIPES["word"], learning_rate=SENTENCE.learning_rate)


def vary(recipe: Recipe, field: str, values: list) -> dict[str, Variant]:
    return {str(value): Variant(replace(recipe, **{field: value})) for value in values}


# The recipe itself is run once and is the first row of each table.
STUDIES = {
    "sentence: the recipe": {"the recipe": Variant(SENTENCE)},
    "sentence: what makes the views differ (recipe: mask and dropout 0.1)": {
        "dropout only": Variant(UNMASKED),
        "mask only": Variant(replace(SENTENCE, dropout=0.0)),
        "neither": Variant(replace(UNMASKED, dropout=0.0), second_view=identical),
        "both, the same dropout in both views": Variant(SENTENCE, loss=SameDropout),
        "DropHead 0.2 only": Variant(replace(UNMASKED, dropout=0.0, drophead=0.2)),
        "mask, DropHead 0.2, no dropout": Variant(replace(SENTENCE, dropout=0.0, drophead=0.2)),
        "mask, DropHead 0.2, dropout 0.1": Variant(replace(SENTENCE, drophead=0.2)),
    },
    "sentence: kind of mask (recipe: a span of whole words)": {
        "a span of tokens": Variant(SENTENCE, mask=TokenMask),
        "5 characters (the paper)": Variant(UNMASKED, second_view=char_span),
        "words said twice (ESimCSE)": Variant(UNMASKED, second_view=repetition),
    },
    "sentence: temperature (recipe: 0.04)": vary(SENTENCE, "temperature", [0.02, 0.1]),
    "word: the recipe": {"the recipe": Variant(WORD)},
    "word: what makes the views differ (recipe: dropout 0.1)": {
        "neither": Variant(replace(WORD, dropout=0.0), second_view=identical),
        "DropHead 0.2, no dropout": Variant(replace(WORD, dropout=0.0, drophead=0.2)),
    },
    "word: temperature (recipe: 0.2)": vary(WORD, "temperature", [0.04, 0.1]),
    "word: epochs (recipe: 2)": vary(WORD, "epochs", [1]),
    "word: learning rate (recipe: as for sentences)": vary(WORD, "learning_rate", [2e-5]),
    "sentence: epochs (recipe: 1)": vary(SENTENCE, "epochs", [2]),
    "sentence: duplicates (recipe: left out of the corpus)": {
        "in, negatives of each other (the paper)": Variant(replace(SENTENCE, ignore_duplicates=False), distinct=False),
    },
    "sentence: further negatives (recipe: none)": {
        "noise (GS-InfoNCE)": Variant(SENTENCE, loss=NoiseNegatives),
        "mixed (MixCSE)": Variant(SENTENCE, loss=MixedNegatives),
    },
    "sentence: pooling (recipe: mean)": {"cls": Variant(SENTENCE, pooling="cls")},
    "sentence: batch size (recipe: 200)": vary(SENTENCE, "batch_size", [400, 50]),
    "sentence: share masked (recipe: 0.1)": vary(SENTENCE, "mask", [0.2, 0.05]),
    "sentence: texts (recipe: all 9,281)": {str(n): Variant(SENTENCE, texts=n) for n in (1_000, 5_000)},
}

# Chosen on the first, reported on the others.
SETS = {
    "sentence": ("STS-B dev", ["STS12", "STS13", "STS14", "STS15", "STS-B"]),
    "word": ("SimLex-999", ["Multi-SimLex ENG"]),
}


@cache
def labelled(kind: str, data: Path) -> dict[str, Pairs]:
    chosen, reported = SETS[kind]
    return {name: read_pairs(data, name) for name in (chosen, *reported)}


def measure(study: str, name: str, seed: int, data: Path, max_texts: int | None) -> dict[str, float]:
    """One seed of one variant: tune, then score on every set of its kind."""
    kind = study.split(":")[0]
    corpus = {"sentence": paper_sentences, "word": paper_words}[kind](data)
    model = STUDIES[study][name].tune(corpus[:max_texts], seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
        return {name: round(score, 2) for name, score in spearman(model, labelled(kind, data)).items()}


def summary(kind: str, seeds: dict[str, dict[str, float]]) -> dict[str, object]:
    chosen, reported = SETS[kind]
    return {
        "dev": [scores[chosen] for scores in seeds.values()],
        "test": [round(statistics.mean(scores[each] for each in reported), 2) for scores in seeds.values()],
        "sets": seeds,
    }


COLUMNS = {"sentence": ("STS-B dev", "STS12-15, STS-B test"), "word": ("SimLex-999", "Multi-SimLex")}


def section(kept: dict) -> str:
    result = kept["result"]
    parts = [
        "## What each part is worth",
        "",
        "The embedded model, one change to a recipe at a time: `sentence` on the paper's 10,000 sentences and `word` "
        "on its 10,000 words, both at the learning rate of small models, 1e-4. Spearman x 100, mean of three seeds, "
        "spread (largest minus smallest) in brackets. Choices are made on the first column of scores. A change "
        "smaller than the spreads is none.",
    ]
    for study, variants in result.items():
        kind, title = study.split(": ", 1)
        if title == "the recipe":
            continue
        recipe = result.get(f"{kind}: the recipe", {}).get("the recipe")
        # What is not measured with all seeds yet is left out.
        variants = {name: row for name, row in variants.items() if recipe and len(row["dev"]) == len(recipe["dev"])}
        if not variants:
            continue
        rows = [
            {
                title: name,
                COLUMNS[kind][0]: score(row["dev"]),
                "change": f"{statistics.mean(row['dev']) - statistics.mean(recipe['dev']):+.2f}",
                COLUMNS[kind][1]: score(row["test"]),
                "change ": f"{statistics.mean(row['test']) - statistics.mean(recipe['test']):+.2f}",
            }
            for name, row in {"the recipe": recipe, **variants}.items()
        ]
        parts += ["", f"### {kind.capitalize()}s: {title}", "", table(rows)]
    parts.append(source(kept["environment"], of_the_embedded=True))
    return "\n".join(parts)


def main() -> None:
    args = parser(__doc__)
    add_data(args)
    args.add_argument("--studies", nargs="+", default=list(STUDIES), metavar="NAME", choices=list(STUDIES))
    args.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args.add_argument("--max-texts", type=int, help="of the corpus, for a quick look")
    add_jobs(args)
    args = args.parse_args()
    if args.max_texts and not args.output:
        raise SystemExit(
            "--max-texts is for a quick look: name another --output, where it is not taken for the result."
        )
    path = args.output or RESULTS / "ablations.json"
    kept, same = earlier(path, {})
    kept = kept if same else {}
    # The first variant of every study before the second of any, so that a run cut short tells something of each.
    variants = sorted(
        ((study, name) for study in args.studies for name in STUDIES[study]),
        key=lambda variant: list(STUDIES[variant[0]]).index(variant[1]),
    )
    tasks = {
        (*variant, str(seed)): (*variant, seed, args.data, args.max_texts)
        for variant in variants
        for seed in args.seeds
    }
    done = {(study, name, seed) for study, rows in kept.items() for name, row in rows.items() for seed in row["sets"]}

    def add(task: tuple[str, str, str], scores: dict[str, float]) -> None:
        study, name, seed = task
        rows = kept.setdefault(study, {})
        seeds = {**rows.get(name, {}).get("sets", {}), seed: scores}
        rows[name] = summary(study.split(":")[0], dict(sorted(seeds.items())))
        keep("ablations", kept, args.output)

    finish(tasks, done, measure, add, args.jobs)
    print(section(read(path)))


if __name__ == "__main__":
    main()
