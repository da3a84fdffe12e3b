from __future__ import annotations

import pickle
import re
from collections import Counter

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.data import DataLoader

from sentence_transformers_mirror import DocumentViews, MirrorLoss
from sentence_transformers_mirror.evidence.parts import split_parts
from sentence_transformers_mirror.training.document_views import document_id

CROPS = DocumentViews(sentences=0.0, deleted=0.0)
SENTENCES = DocumentViews(sentences=1.0, deleted=0.0)


def views(transform, texts, titles=None, seed=0):
    torch.manual_seed(seed)
    batch = transform({"text": texts, **({"title": titles} if titles else {})})
    return list(zip(batch["anchor"], batch["positive"], strict=True))


def numbered(words, first=0):
    """A document of so many words, all different."""
    return " ".join(f"w{number}" for number in range(first, first + words))


def places(view):
    """Numbers of the words of a view of a `numbered` document."""
    return [int(word[1:]) for word in view.split()]


@settings(max_examples=60, deadline=None)
@given(words=st.integers(8, 500), seed=st.integers(0, 10**6), other=st.integers(8, 500))
def test_crops_lie_inside_their_document_and_differ(words, seed, other):
    pairs = views(CROPS, [numbered(words), numbered(other, 10_000)], seed=seed)
    for (anchor, positive), (first, count) in zip(pairs, [(0, words), (10_000, other)], strict=True):
        window = min(count, 192)
        assert anchor != positive
        for view in (places(anchor), places(positive)):
            assert view == list(range(view[0], view[0] + len(view))), "words in a row"
            assert first <= view[0] and view[-1] < first + count, "of this document"
        assert 4 <= len(places(anchor)) <= min(24, max(4, round(window / 2)))
        assert max(4, round(0.3 * window)) <= len(places(positive)) <= max(4, round(0.9 * window))
        both = places(anchor) + places(positive)
        assert max(both) - min(both) < 192, "of one window"


def test_crops_are_of_all_sizes_from_all_places():
    pairs = views(CROPS, [numbered(192)] * 2_000)
    anchors, positives = ([places(pair[side]) for pair in pairs] for side in (0, 1))
    sizes = torch.tensor([len(view) for view in positives]).float()
    assert sizes.min() <= 60 and sizes.max() >= 170 and sizes.mean() == pytest.approx(192 * 0.6, rel=0.02)
    assert min(view[0] for view in anchors) == 0 and max(view[-1] for view in anchors) == 191
    lengths = Counter(len(view) for view in anchors)
    # A share of (24 - 9.6) / 86.4 would be shorter than 24 by itself.
    assert min(lengths) == 10 and max(lengths) == 24 and 1 - lengths[24] / 2_000 == pytest.approx(14 / 86.4, abs=0.03)


def test_a_long_document_is_read_everywhere():
    texts = [numbered(5_000)] * 300
    begins = [places(anchor)[0] for anchor, _ in views(CROPS, texts)]
    assert min(begins) < 500 and max(begins) > 4_500 and len(set(begins)) > 200
    assert all(view in texts[0] for pair in views(CROPS, texts) for view in pair), "no word is cut"


def test_words_are_left_out_but_never_all():
    left = [
        len(view.split())
        for pair in views(DocumentViews(sentences=0.0, deleted=0.3), [numbered(400)] * 500)
        for view in pair
    ]
    whole = [len(view.split()) for pair in views(CROPS, [numbered(400)] * 500) for view in pair]
    assert sum(left) / sum(whole) == pytest.approx(0.7, abs=0.01)
    assert all(view for pair in views(DocumentViews(deleted=0.99), [numbered(20)] * 200) for view in pair)


def test_titles_ask_for_bodies():
    pairs = views(DocumentViews(titles=1.0, deleted=0.0), [numbered(100)] * 200, ["A title"] * 200)
    assert {anchor for anchor, _ in pairs} == {"A title"}
    sizes = [len(places(body)) for _, body in pairs]
    assert min(sizes) <= 35 and max(sizes) >= 85 and all(30 <= size <= 90 for size in sizes)
    share = sum(anchor == "A title" for anchor, _ in views(CROPS, [numbered(100)] * 1_000, ["A title"] * 1_000))
    assert share == pytest.approx(400, abs=50)
    assert "A title" not in dict(views(DocumentViews(titles=0.0), [numbered(100)] * 50, ["A title"] * 50))


def told(sentences, words=10):
    """A document of so many sentences, all different."""
    return " ".join(f"S{number} {numbered(words - 1, 100 * number)}." for number in range(sentences))


def test_sentences_ask_for_what_stands_around_them():
    text = told(6)
    pairs = views(SENTENCES, [text] * 3_000)
    counts = Counter(anchor for anchor, _ in pairs)
    asked = [f"{sentence}." for sentence in text.rstrip(".").split(". ")]
    assert set(counts) == set(asked[1:]), "each but the first"
    assert all(count == pytest.approx(600, abs=90) for count in counts.values())
    for anchor, positive in pairs:
        assert positive in (text, " ".join(sentence for sentence in asked if sentence != anchor))
    assert sum(positive == text for _, positive in pairs) == pytest.approx(300, abs=60)
    shares = [anchor in counts for anchor, _ in views(DocumentViews(sentences=0.3, deleted=0.0), [text] * 2_000)]
    assert sum(shares) == pytest.approx(600, abs=70)


@pytest.mark.parametrize("text", ["One sentence of eight words is here now.", "The first one is here. No. Nor here."])
def test_without_a_sentence_to_ask_there_are_crops(text):
    assert all(4 <= len(view.split()) <= 7 and view in text for pair in views(SENTENCES, [text] * 20) for view in pair)


def test_the_judge_asks_what_no_view_teaches():
    """A first sentence against the rest: by this `compare` and the guard of `mirror_tune` judge."""
    texts = [told(n, words) for n, words in [(2, 5), (3, 8), (5, 12), (9, 20)]]
    judged = split_parts(texts * 20 + [told(4, n) for n in range(5, 60)], "first", max_documents=100)
    questions = dict(zip(judged.queries, judged.passages, strict=True))
    assert {text.split(". ")[0] + "." for text in texts} <= set(questions)
    for transform in (SENTENCES, CROPS, DocumentViews(deleted=0.0)):
        for anchor, positive in views(transform, [" ".join(pair) for pair in questions.items()] * 30):
            assert not (anchor in questions and questions[anchor] in positive)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("", "one"),
        (None, "one"),
        ("one", "one"),
        (" one ", "one\n"),
        ("one", "one."),
        ("one", ""),
        ("", "one two three four five six seven"),
    ],
)
def test_what_has_no_two_parts_is_its_own_positive(title, text):
    for anchor, positive in views(DocumentViews(titles=1.0), [text] * 20, [title] * 20):
        assert anchor == positive == (text.strip() or title)


def test_a_body_does_not_begin_with_its_title():
    text = "The wing. " + numbered(40)
    for anchor, body in views(DocumentViews(titles=1.0, deleted=0.0), [text] * 50, ["The wing"] * 50):
        assert anchor == "The wing" and "wing" not in body


@pytest.mark.parametrize("text", ["word " * 50, "word " * 200_000, "x" * 1_000_000, "<p></p>" * 40, "...", "\u00a0"])
def test_degenerate_documents_have_views(text):
    for anchor, positive in views(DocumentViews(), [text] * 5):
        assert len(anchor) <= 2_304 and len(positive) <= 2_304
        assert (anchor and positive) or not text.strip()


def test_scripts_without_spaces_are_cropped_by_characters():
    text = "昨天晚上我们在河边的一家小餐馆里吃了晚饭,然后沿着安静的街道慢慢走回家"
    pairs = views(CROPS, [text] * 50)
    assert all(4 <= len(view) < len(text) and view in text for pair in pairs for view in pair)
    assert len(set(pairs)) > 40


def test_white_space_between_words_stays_and_around_them_goes():
    text = "  a  b\n\nc d e f g h i j k l m n o p  "
    assert all(view == view.strip() and view in text for pair in views(CROPS, [text] * 30) for view in pair)


def test_equal_documents_have_equal_labels_in_every_process():
    labels = DocumentViews()({"text": ["a b", "a b", "a c", "a b"], "title": ["", "", "", "t"]})["label"]
    assert labels[0] == labels[1] and len(set(labels)) == 3
    assert document_id("", "a b") == labels[0] == -5339668190118694924
    assert all(-(2**63) <= label < 2**63 for label in labels)
    assert document_id("", "\ud800") != document_id("", "\ud801")  # lone surrogates


def epochs(transform, workers, seed):
    """The views of two epochs."""
    dataset = Dataset.from_dict({"text": [numbered(60, 100 * n) for n in range(24)]}).with_transform(transform)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, generator=generator)
    torch.manual_seed(seed)
    return [[(row["anchor"], row["positive"]) for batch in loader for row in unbatched(batch)] for _ in range(2)]


def unbatched(batch):
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_reproduces_and_epochs_differ(workers):
    first, second = epochs(DocumentViews(), workers, 1)
    assert epochs(DocumentViews(), workers, 1) == [first, second]
    assert epochs(DocumentViews(), workers, 2)[0] != first
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 1


def test_it_can_be_pickled_and_compared():
    assert pickle.loads(pickle.dumps(DocumentViews(0.2))) == DocumentViews(0.2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"titles": 1.1}, "titles is a share and must lie between 0 and 1"),
        ({"sentences": float("nan")}, "sentences is a share and must lie between 0 and 1"),
        ({"deleted": 1.0}, "deleted must be at least 0 and below 1"),
        ({"deleted": -0.1}, "deleted must be at least 0 and below 1"),
    ],
)
def test_values_out_of_range(options, match):
    with pytest.raises(ValueError, match=match):
        DocumentViews(**options)


def test_other_columns_are_named():
    with pytest.raises(ValueError, match=re.escape("reads the columns 'text' and 'title', not ['body']")):
        DocumentViews()({"body": ["a"]})


def test_in_the_hosts_own_trainer(tiny_model, tmp_path):
    """The transform and the loss are all that a loop of one's own needs."""
    texts = [f"{numbered(30, n)} the end of number {n}" for n in range(16)]
    dataset = Dataset.from_dict({"text": texts, "title": [f"number {n}" for n in range(16)]})
    dataset.set_transform(DocumentViews())
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, max_steps=3, save_strategy="no", report_to="none",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    loss = MirrorLoss(tiny_model, 0.05, mask=None, labels_are_ids=True)
    trainer = SentenceTransformerTrainer(model=tiny_model, args=args, train_dataset=dataset, loss=loss)
    assert 0 < trainer.train().training_loss < 10
