from __future__ import annotations

import gzip
import pickle

import pytest
import torch
from conftest import byte_bpe_tokenizer, unigram_tokenizer, wordpiece_tokenizer
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import CharSpanMask, TokenSpanMask, embedded_model_path, two_views

TOKENIZERS = {
    "wordpiece": wordpiece_tokenizer,
    "byte-bpe": byte_bpe_tokenizer,
    "unigram": unigram_tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def tokenize(tokenizer, texts, side="right"):
    tokenizer.padding_side = side
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def visible(features):
    """Token ids of each row, without padding."""
    pairs = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
    return [ids[keep].tolist() for ids, keep in pairs]


@pytest.mark.parametrize("side", ["left", "right"])
def test_hides_one_span_of_content_in_each_long_text(tokenizer, texts, side):
    features = tokenize(tokenizer, texts, side)
    mask = TokenSpanMask().bind(tokenizer)
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
    content = features["attention_mask"].bool() & ~torch.isin(features["input_ids"], special)
    for _ in range(20):
        span = mask.spans(features)
        assert not (span & ~content).any(), "a special token or padding was hidden"
        assert not (span.sum(1) == content.sum(1)).any(), "a whole text was hidden"
        positions = torch.arange(span.shape[1])
        for row, text in zip(span, texts, strict=True):
            hidden = positions[row]
            assert len(hidden) == 0 if len(text) < 25 else len(hidden) > 0
            assert torch.equal(hidden, torch.arange(len(hidden)) + (hidden[0] if len(hidden) else 0)), "not contiguous"


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_view_hides_the_span_and_nothing_else(tokenizer, texts, side):
    features = tokenize(tokenizer, texts, side)
    before = {key: value.clone() for key, value in features.items()}
    mask = TokenSpanMask().bind(tokenizer)
    torch.manual_seed(3)
    span = mask.spans(features)
    torch.manual_seed(3)
    view = mask(features)
    assert all(torch.equal(features[key], value) for key, value in before.items()), "the first view was changed"
    for ids, hidden, keep, seen in zip(
        features["input_ids"], span, features["attention_mask"].bool(), visible(view), strict=True
    ):
        if tokenizer.mask_token_id is None:
            assert seen == ids[keep & ~hidden].tolist()
        else:
            assert seen == ids.masked_fill(hidden, tokenizer.mask_token_id)[keep].tolist()
    if side == "left":
        assert view["attention_mask"][:, -1].all(), "deleting must leave the last token at the end"
    else:
        assert view["attention_mask"][:, 0].all()


def test_whole_words_are_hidden_wherever_words_are_that_short(texts):
    tokenizer = wordpiece_tokenizer()
    features = tokenize(tokenizer, texts)
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in features["input_ids"]]
    mask = TokenSpanMask(share=0.3).bind(tokenizer)
    for _ in range(20):
        for row, hidden in zip(tokens, mask.spans(features).tolist(), strict=True):
            if any(hidden) and "word" in row:  # the row with the 28-letter word may be cut inside it
                continue
            first, last = (hidden.index(True), len(hidden) - hidden[::-1].index(True)) if any(hidden) else (0, 0)
            assert not row[first].startswith("##")
            assert not row[last].startswith("##")


def test_every_word_has_its_turn(texts):
    tokenizer = wordpiece_tokenizer()
    features = tokenize(tokenizer, [texts[0]] * 600)
    counts = TokenSpanMask().bind(tokenizer).spans(features).float().mean(0)[1:-1]
    assert counts.min() > 0.02
    assert counts.max() < 0.5


def test_prompt_tokens_are_never_hidden(tiny_model, texts):
    prompt = "The quick brown fox jumps over: "
    features = tiny_model.preprocess(texts, prompt=prompt)
    length = features["prompt_length"]
    mask = TokenSpanMask(share=0.5).bind(tiny_model.tokenizer)
    spans = torch.stack([mask.spans(features) for _ in range(50)])
    assert spans.any()
    assert not spans[:, :, :length].any()


def test_a_long_single_word_is_cut_and_not_hidden_whole():
    tokenizer = unigram_tokenizer()
    features = tokenize(tokenizer, ["thequickbrownfoxjumpsoverthelazydogwhilethecatislookingon"])
    mask = TokenSpanMask().bind(tokenizer)
    spans = torch.cat([mask.spans(features) for _ in range(50)])
    assert spans.any(1).all()
    assert spans.float().sum(1).max() <= features["attention_mask"].sum() / 3
    assert len({tuple(row) for row in spans.tolist()}) > 3


def test_masks_follow_the_generator_and_nothing_else(texts):
    tokenizer = wordpiece_tokenizer()
    features = tokenize(tokenizer, texts)
    mask = TokenSpanMask().bind(tokenizer)
    first = mask.spans(features, torch.Generator().manual_seed(1))
    assert torch.equal(first, mask.spans(features, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, mask.spans(features, torch.Generator().manual_seed(2)))


def test_share_is_the_papers_on_real_text(data_dir):
    path = data_dir / "corpus/mirror_corpus/stsbenchmark_train_10k_sents_random_sampled.txt.gz"
    sentences = gzip.open(path, "rt", encoding="utf-8").read().splitlines()[:4000]
    tokenizer = SentenceTransformer(embedded_model_path(), device="cpu").tokenizer
    mask = TokenSpanMask().bind(tokenizer)
    features = tokenize(tokenizer, sentences)
    torch.manual_seed(0)
    span = mask.spans(features)
    length = mask.token_length[features["input_ids"]] * features["attention_mask"]
    length = length * ~mask.is_special[features["input_ids"]]
    masked = span.any(1)
    share = ((length * span).sum(1) / length.sum(1))[masked].mean().item()
    assert 0.085 < share < 0.12, "the paper hides 9.8% of the characters of the sentences that it masks"
    assert abs(masked.float().mean().item() - sum(len(s) >= 30 for s in sentences) / len(sentences)) < 0.05


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match="share must lie between 0 and 1"):
        TokenSpanMask(share)


def test_characters_are_replaced_at_the_drawn_place(texts):
    mask = CharSpanMask(byte_bpe_tokenizer())
    for text in texts:
        for _ in range(10):
            view = mask(text)
            if len(text) < 30:
                assert view == text
                continue
            before, after = view.split(" <mask> ")
            assert len(before) + 5 + len(after) == len(text)
            assert text.startswith(before) and text.endswith(after)


def test_every_place_can_be_drawn():
    mask = CharSpanMask(wordpiece_tokenizer(), span=5, min_length=30)
    text = "abcde" * 6  # every span occurs six times: the first occurrence is not always the one to hide
    starts = {mask(text).index(" [MASK] ") for _ in range(2000)}
    assert starts == set(range(26))


def test_character_mask_needs_a_mask_token():
    with pytest.raises(ValueError, match="TokenSpanMask"):
        CharSpanMask(unigram_tokenizer())


@pytest.mark.parametrize("span", [0, 30])
def test_character_span_out_of_range(span):
    with pytest.raises(ValueError, match="span must be"):
        CharSpanMask(wordpiece_tokenizer(), span=span)


def test_two_views_are_fresh_on_every_read_and_can_be_pickled(texts):
    transform = pickle.loads(pickle.dumps(two_views(CharSpanMask(wordpiece_tokenizer()))))
    dataset = Dataset.from_dict({"text": texts})
    dataset.set_transform(transform)
    epochs = [dataset[:] for _ in range(3)]
    assert all(epoch["anchor"] == texts for epoch in epochs)
    assert len({tuple(epoch["positive"]) for epoch in epochs}) == 3
    with pytest.raises(ValueError, match="one text column"):
        transform({"a": texts, "b": texts})


def test_masking_never_changes_what_encode_sees(tiny_model, texts):
    from sentence_transformers_mirror import MirrorLoss

    before = tiny_model.encode(texts)
    loss = MirrorLoss(tiny_model.train())
    loss([tiny_model.preprocess(texts)]).backward()
    assert (tiny_model.encode(texts) == before).all()
