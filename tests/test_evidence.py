from __future__ import annotations

import zlib
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from sentence_transformers_mirror.evidence.parts import SINGLE, split_parts
from sentence_transformers_mirror.evidence.verdict import bootstrap, compare, measure

TOPICS = ["cat", "dog", "file", "list", "window", "knife", "road", "ship", "song", "tree", "king", "snow"]
DOCUMENTS = [
    f"The {a} number {n} met the {b} near {c}. Then {a} {n} left. It was a {b} of {c} {n}."
    for n, (a, b, c) in enumerate((a, b, c) for a in TOPICS[:6] for b in TOPICS[6:] for c in ("home", "town"))
]


class Words:
    """An encoder of words by random vectors, with noise: the more, the worse it is."""

    tokenizer, max_seq_length, prompts = None, None, {}
    device = torch.device("cpu")

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def encode(self, texts, **_):
        made = []
        for text in texts:
            seeds = [zlib.crc32(word.strip(".").encode()) for word in text.split()]
            vector = sum(np.random.default_rng(seed).normal(size=32) for seed in seeds) / np.sqrt(len(seeds))
            made.append(vector + self.noise * np.random.default_rng(zlib.crc32(text.encode())).normal(size=32))
        return np.array(made, np.float32)


def test_the_verdict_follows_the_noise():
    good, bad = Words(0.2), Words(3)
    worse, better = compare(good, bad, DOCUMENTS), compare(bad, good, DOCUMENTS)
    assert (worse.verdict, better.verdict) == ("worse", "better")
    assert worse.low < worse.difference < worse.high < 0 < better.low
    assert better.difference == pytest.approx(-worse.difference)
    assert better.after == worse.before
    assert better.structure == "first sentence and the rest" and better.documents == better.pairs == len(DOCUMENTS)
    assert astuple(compare(bad, good, DOCUMENTS)) == astuple(better)
    assert compare(bad, good, DOCUMENTS, least_gain=0.99).verdict == "no evidence"
    assert compare(good, bad, DOCUMENTS, least_loss=0.99).verdict == "no evidence"


def test_an_identical_model_is_no_evidence():
    same = compare(Words(0.2), Words(0.2), DOCUMENTS)
    assert (same.verdict, same.difference, same.low, same.high) == ("no evidence", 0, 0, 0)


def test_geometry_has_no_vote():
    class Shifted(Words):
        def encode(self, texts, **_):
            return np.concatenate([super().encode(texts), np.full((len(texts), 1), 20, np.float32)], axis=1)

    # All cosines are near 1 now, but their order is about the same.
    found = compare(Words(0.2), Shifted(0.2), DOCUMENTS)
    assert found.after["mean cosine of random pairs"] > 0.9 > found.before["mean cosine of random pairs"]
    assert found.verdict != "better" and abs(found.difference) < 0.3


def test_single_sentences_can_only_show_damage():
    singles = [document.split(". ")[0] for document in DOCUMENTS]
    assert compare(Words(0.2), Words(9), singles).verdict == "damaged"
    assert compare(Words(9), Words(0.2), singles).verdict == "no evidence"
    assert compare(Words(9), Words(0.2), singles).structure == SINGLE


def test_structures():
    text = "One is here. Two is there. Three is gone. Four is back."
    texts = [text.replace("is", f"is {n}") for n in range(60)]
    found = {structure: split_parts(texts, structure) for structure in ("first", "halves", "neighbours", "single")}
    number = found["first"].queries[0].split()[2]
    sentences = [sentence.strip() + "." for sentence in text.replace("is", f"is {number}").split(".")[:4]]
    assert found["first"].passages[0] == " ".join(sentences[1:])
    assert (found["halves"].queries[0], found["halves"].passages[0]) == (
        " ".join(sentences[:2]),
        " ".join(sentences[2:]),
    )
    assert list(zip(found["neighbours"].queries, found["neighbours"].passages, strict=True))[:2] == [
        (sentences[0], sentences[1]),
        (sentences[2], sentences[3]),
    ]
    assert found["neighbours"].documents.tolist() == [n for n in range(60) for _ in range(2)]
    query, passage = found["single"].queries[0], found["single"].passages[0]
    assert set(query.split()) < set(passage.split()) and len(query.split()) == 11  # of 16 words
    titled = split_parts([(f"Title {n}", f"Body {n}.") for n in range(60)])
    assert titled.structure == "title and body"
    assert titled.queries[0].replace("Title", "Body") + "." == titled.passages[0]
    # Bodies of two sentences ask by the first, which no recipe teaches; titles ask where that is wanted.
    pairs = [(f"Title {n}", f"Title {n}. Here it begins {n}. Here it ends {n}.") for n in range(60)]
    assert split_parts(pairs).structure == "first sentence and the rest"
    number = split_parts(pairs).queries[0].split()[-1]
    assert split_parts(pairs).passages[0] == f"Here it ends {number}"
    asked = split_parts(pairs, "title")
    assert asked.structure == "title and body" and not any("Title" in passage for passage in asked.passages)
    assert len(split_parts(texts, max_documents=55).queries) == 55
    # What is there twice has no one right passage; it is asked once.
    assert len(split_parts([*texts, *(f"This is {n}. Another end." for n in range(60))]).queries) == 61


def test_both_directions_count():
    parts = split_parts(DOCUMENTS)
    found = measure(Words(0.5), parts)
    turned = replace(parts, queries=parts.passages, passages=parts.queries)
    vars(turned)["rivals"] = parts.rivals  # the rivals of a passage are those of its query, too
    turned = measure(Words(0.5), turned)
    assert found.backwards == pytest.approx((turned.everywhere + turned.among_look_alikes) / 2)
    assert found.ranks == pytest.approx((found.everywhere + found.among_look_alikes) / 4 + found.backwards / 2)
    assert not np.allclose(found.backwards, (found.everywhere + found.among_look_alikes) / 2)


def test_documents_are_drawn_as_a_whole():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=300)
    alone = bootstrap(effects, np.arange(300))
    width = 2 * 1.96 * effects.std() / np.sqrt(300)
    assert alone[1] - alone[0] == pytest.approx(width, rel=0.1)
    assert sum(alone) / 2 == pytest.approx(effects.mean(), abs=0.02)
    # Four times the same value of a document is no more evidence than once.
    repeated = bootstrap(np.repeat(effects, 4), np.repeat(np.arange(300), 4))
    assert repeated == pytest.approx(alone)


def test_bad_input():
    with pytest.raises(
        ValueError, match="no structure 'name'; they are auto, single, title, first, halves, neighbours"
    ):
        split_parts(DOCUMENTS, "name")
    with pytest.raises(ValueError, match="Only 3 of 3 texts have parts to rank .single sentences., and 50 are needed"):
        split_parts(DOCUMENTS[:3])
    with pytest.raises(ValueError, match="Only 0 of 60 texts have parts to rank .halves."):
        split_parts(DOCUMENTS[:60], "halves")
    with pytest.raises(ValueError):
        compare(Words(0.2), Words(np.nan), DOCUMENTS)
