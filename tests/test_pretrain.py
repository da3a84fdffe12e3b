"""The recipe that makes a base model: in seconds, on a few repeated sentences."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

EXAMPLE = Path(__file__).parents[1] / "examples" / "pretrain"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("text", "pretrain", "evaluate"):  # other examples may have modules of these names
        monkeypatch.delitem(sys.modules, name, raising=False)
    import evaluate
    import pretrain

    return pretrain, evaluate


@pytest.fixture
def run(recipe, texts, tmp_path, monkeypatch):
    """Train a tiny model in the folder ``model`` and return what was noted of the run."""
    pretrain, _ = recipe
    with gzip.open(tmp_path / "corpus.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join(texts * 40))
    size = ["--vocabulary", 400, "--layers", 1, "--width", 32, "--heads", 2, "--inner", 32]
    rows = ["--text", tmp_path / "corpus.txt.gz", "--length", 32, "--batch", 16]

    def call(minutes, *arguments, output="model"):
        given = [*size, *rows, "--output", tmp_path / output, "--minutes", minutes, *arguments]
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, given)])
        pretrain.main()
        return json.loads((tmp_path / output / "pretrain.json").read_text(encoding="utf-8"))

    return call


def test_from_text_to_an_encoder(recipe, run, texts, tmp_path, capsys):
    _, evaluate = recipe
    first = run(0.03)
    assert first["steps"] > 0
    further = run(0.06)
    assert further["steps"] > first["steps"] and further["losses"][: len(first["losses"])] == first["losses"]
    assert "goes on at step" in capsys.readouterr().out

    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32" and config["attention_dropout"] == config["mlp_dropout"] == 0.1
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    assert sum(value.shape == (400, 32) for value in kept.values()) == 1  # tied weights are kept once
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.encode(texts).shape == (len(texts), 32)

    found = evaluate.nats(str(tmp_path / "model"), tmp_path / "corpus.txt.gz")
    assert 0 < found["nats a token"] < 6 and found["nats a character"] < found["nats a token"]


def test_a_model_is_trained_further(recipe, run, tmp_path, monkeypatch):
    pretrain, _ = recipe
    run(0.03)
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text("utf-8").replace('"dtype": "float32"', '"dtype": "float16"'), "utf-8")
    old = load_file(tmp_path / "model" / "model.safetensors")
    started = []
    model_of = pretrain.model_of

    def load(folder):
        started.append(model_of(folder))
        loaded.update({name: tensor.clone() for name, tensor in started[-1].state_dict().items()})
        return started[-1]

    loaded: dict = {}
    monkeypatch.setattr(pretrain, "model_of", load)
    # Of the sizes asked for, all are another than that of the model, and the model's stay.
    run(0.03, "--start", tmp_path / "model", "--layers", 2, "--vocabulary", 100, output="further")
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in old.items())
    assert {value.dtype for value in started[0].state_dict().values()} == {torch.float32}
    assert started[0].config.attention_dropout == started[0].config.mlp_dropout == 0
    new = load_file(tmp_path / "further" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in new.items()} == {name: tensor.shape for name, tensor in old.items()}
    assert any(not torch.equal(new[name], tensor) for name, tensor in old.items())
    tokenizers = [(tmp_path / name / "tokenizer.json").read_text("utf-8") for name in ("model", "further")]
    assert tokenizers[0] == tokenizers[1]
    config = json.loads((tmp_path / "further" / "config.json").read_text(encoding="utf-8"))
    assert config["attention_dropout"] == config["mlp_dropout"] == 0.1


def test_ctrl_c_loses_nothing(recipe, run, tmp_path, monkeypatch, capsys):
    pretrain, _ = recipe
    passes = pretrain.Blocks.passes

    def interrupted(self, batch, skip=0):
        for number, ids in enumerate(passes(self, batch, skip)):
            if number == 7:
                raise KeyboardInterrupt
            yield ids

    with monkeypatch.context() as patch:
        patch.setattr(pretrain.Blocks, "passes", interrupted)
        with pytest.raises(SystemExit, match="Stopped at step 7; the same command goes on from there"):
            run(10)
    kept = torch.load(tmp_path / "model" / "work" / "checkpoint.pt")
    assert kept["step"] == 7 and kept["seconds"] > 0
    with pytest.raises(SystemExit, match="1e-09 minutes have passed already"):
        run(1e-9)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(SystemExit):
        run(0.03, "--layers", 2)
    assert "was begun with --layers 1; say so again or name another --output" in capsys.readouterr().err
    run(0.03)
    assert "goes on at step 7," in capsys.readouterr().out


def test_only_a_modernbert_is_trained_further(recipe, make_model, tmp_path):
    pretrain, _ = recipe
    make_model("bert")[0].auto_model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="of type bert; --start goes on from a ModernBERT"):
        pretrain.model_of(tmp_path / "bert")


def test_many_languages_and_large_vocabularies(recipe, tmp_path):
    import text

    (tmp_path / "text.txt").write_text("größer मुझे हिन्दी\n" * 50, encoding="utf-8")
    tokenizer = text.train_tokenizer(tmp_path / "text.txt", 100, 100)
    assert tokenizer.decode(tokenizer("Größer मुझे हिन्दी", add_special_tokens=False)["input_ids"]) == "größer मुझे हिन्दी"
    few = text.train_tokenizer(tmp_path / "text.txt", 100, 5)
    assert few.unk_token_id in text.token_stream(tmp_path / "text.txt", few)

    class Large:
        sep_token_id = 69_999
        backend_tokenizer = SimpleNamespace(
            encode_batch_fast=lambda texts, **_: [SimpleNamespace(ids=[66_000]) for _ in texts]
        )

        def __len__(self):
            return 70_000

    assert text.token_stream(tmp_path / "text.txt", Large())[:2].tolist() == [66_000, 69_999]


def test_what_is_hidden(recipe, make_model):
    pretrain, _ = recipe
    tokenizer = make_model("bert").tokenizer
    ids = torch.randint(5, len(tokenizer), (200, 40))
    ids[:, 0], ids[:, -1], ids[:, 20] = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id
    masked = pretrain.Hide(tokenizer, 0.2, "cpu")(ids)
    assert masked.places.shape == (200, 8) and torch.equal(ids.gather(1, masked.places), masked.labels)
    assert not torch.isin(masked.labels, torch.tensor(tokenizer.all_special_ids)).any()
    changed = masked.ids != ids
    assert changed.sum(1).le(8).all() and (masked.ids == tokenizer.mask_token_id).float().mean() == pytest.approx(
        0.16, abs=0.02
    )
    assert (masked.ids.gather(1, masked.places) == masked.labels).float().mean() == pytest.approx(0.1, abs=0.03)


def test_the_rate_follows_the_clock(recipe):
    pretrain, _ = recipe
    shares = [pretrain.share_of_rate(progress, 0.55) for progress in (0.01, 0.03, 0.3, 0.55, 0.775, 1.0)]
    assert shares == pytest.approx([1 / 3, 1, 1, 1, 0.5, 0.02])


def test_every_pass_sees_all_text_at_other_places(recipe, make_model):
    pretrain, _ = recipe
    tokenizer = make_model("bert").tokenizer
    blocks = pretrain.Blocks(torch.arange(5, 505).numpy().astype("uint16"), 12, tokenizer, "cpu")
    batches = blocks.passes(7)
    first = [next(batches) for _ in range(14)]  # two passes of 49 rows
    assert all(batch.shape == (7, 12) and batch[0, 0] == tokenizer.cls_token_id for batch in first)
    one, two = torch.cat(first[:7])[:, 1:-1], torch.cat(first[7:])[:, 1:-1]
    assert len(one.unique()) == 490 == len(two.unique()) and set(one[:, 0].tolist()) != set(two[:, 0].tolist())
    assert torch.equal(next(blocks.passes(7, skip=9)), first[9])
    with pytest.raises(ValueError, match="49 rows of 12 tokens, fewer than one batch of 100"):
        next(blocks.passes(100))


def test_a_tokenizer_that_is_there_and_tokens_that_are_made_before(recipe, run, make_model, tmp_path):
    make_model("bert").tokenizer.save_pretrained(str(tmp_path / "words"))
    with pytest.raises(FileNotFoundError):
        run(0.01, "--tokenizer", tmp_path / "words", "--prepare")  # leaves no result of a run
    assert not (tmp_path / "model" / "model.safetensors").exists()
    tokens = next((tmp_path / "model" / "work").glob("*.npy"))
    made = tokens.stat().st_mtime_ns
    assert run(0.01, "--tokenizer", tmp_path / "words")["steps"] > 0 and tokens.stat().st_mtime_ns == made
    ours = SentenceTransformer(str(tmp_path / "model"), device="cpu").tokenizer
    assert ours.get_vocab() == make_model("bert").tokenizer.get_vocab()


def test_the_second_stage(recipe, make_model, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "second_stage", raising=False)
    import second_stage

    path = tmp_path / "text.txt"
    rows = [
        f"What is number {n}?\n{a}\nNumber {n}: {b}" for n in range(4) for a, b in zip(texts, texts[1:], strict=False)
    ]
    path.write_text("\n\n\n".join([*rows, "A single line."]), encoding="utf-8")
    found = list(second_stage.documents(path))
    assert found[0] == ("What is number 0?", f"{texts[0]} Number 0: {texts[1]}")
    assert found[-1] == ("", "A single line.") and len(found) == len(rows) + 1

    model = make_model("modernbert")
    model.save_pretrained(str(tmp_path / "base"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for mixed in ("0", "1"):
        arguments = ["--model", tmp_path / "base", "--text", path, "--output", tmp_path / mixed, "--epochs", 2]
        arguments += ["--batch", 16, "--rate", 1e-3, "--mixed", mixed]
        monkeypatch.setattr(sys, "argv", ["second_stage.py", *map(str, arguments)])
        second_stage.main()
        assert f"{len(found) // 16 * 2} steps on {len(found)} documents" in capsys.readouterr().out
    moved, same = (SentenceTransformer(str(tmp_path / mixed), device="cpu") for mixed in ("0", "1"))
    assert {parameter.dtype for parameter in moved.parameters()} == {torch.float32}
    assert (tmp_path / "0" / "model.safetensors").stat().st_size < sum(t.nbytes for t in before.values())
    for name, tensor in same.state_dict().items():
        torch.testing.assert_close(tensor, before[name].half().float())
    assert any(not torch.allclose(tensor, before[name], atol=1e-3) for name, tensor in moved.state_dict().items())
