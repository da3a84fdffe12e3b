"""Five hundred damaged inputs on the command line: each is refused in one sentence, or read; none is called a bug."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TEXTS

from sentence_transformers_mirror.cli import USAGE, main

EACH = 20
ROWS = [{"id": number, "text": text, "year": 2_000 + number, "note": None} for number, text in enumerate(TEXTS)]


def _csv(path: Path, comma: str = ",") -> None:
    rows = [f'{row["id"]}{comma}"{row["text"]}"{comma}{row["year"]}' for row in ROWS]
    path.write_text("\n".join([comma.join(("id", "text", "year")), *rows]), encoding="utf-8")


def _page(path: Path) -> None:
    path.write_text("".join(f"<h1>Part</h1><p>{text}</p>" for text in TEXTS), encoding="utf-8")


WHOLE: dict[str, Callable[[Path], object]] = {
    "texts.csv": _csv,
    "texts.tsv": lambda path: _csv(path, "\t"),
    "texts.json": lambda path: path.write_text(json.dumps(ROWS)),
    "texts.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, ROWS))),
    "texts.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "texts.txt": lambda path: path.write_text("\n".join(TEXTS)),
    "texts.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(TEXTS).encode())),
    "texts.csv.gz": lambda path: (_csv(path), path.write_bytes(gzip.compress(path.read_bytes()))),
    "page.html": _page,
    "page.md": lambda path: path.write_text("\n\n".join(f"# Part\n\n{text}" for text in TEXTS)),
    "page.rst": lambda path: path.write_text("\n\n".join(f"Part\n====\n\n{text}" for text in TEXTS)),
}


def damaged(good: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost, doubled or put in, or the end cut off, up to three times."""
    for _ in range(rng.randint(1, 3)):
        place, size = rng.randrange(len(good) + 1), rng.choice((1, 1, 4, 64))
        good = rng.choice(
            (
                lambda a, b, n: a + rng.randbytes(n) + b[n:],
                lambda a, b, n: a + b[n:],
                lambda a, b, n: a + b[:n] * 2 + b,
                lambda a, b, n: a + rng.choice((b'"', b"\\", b"\0", b"{", b"[", b"\xef\xbb\xbf", b"\r", b"<")) + b,
                lambda a, b, n: a,
            )
        )(good[:place], good[place:], size)
    return good


def refused_or_read(arguments: list[str], capsys: pytest.CaptureFixture, codes: tuple[int, ...]) -> None:
    code = main(arguments)
    told = capsys.readouterr().err.strip()
    assert code in codes, (arguments, code, told)
    if code == USAGE or code == 3:
        last = told.splitlines()[-1]
        assert last.startswith("st-mirror: error: ") and "Traceback" not in told, told


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_of_texts(tmp_path, capsys, tiny_model, name):
    tiny_model.save_pretrained(str(tmp_path / "tiny"))
    WHOLE[name](tmp_path / name)
    good = (tmp_path / name).read_bytes()
    rng = random.Random(name)
    for number in range(EACH):
        (tmp_path / name).write_bytes(damaged(good, rng))
        output = ["--output", str(tmp_path / f"index{number}"), "--model", str(tmp_path / "tiny")]
        verb = (
            ["tune", "--recipe", "search", "--max-texts", "2", "--no-guard"] if name.startswith("page") else ["index"]
        )
        refused_or_read([*verb, "--texts", str(tmp_path / name), *output], capsys, (0, USAGE))


@pytest.mark.parametrize("verb", ["search", "info", "verify", "add"])
def test_a_damaged_index(tmp_path, capsys, tiny_model, verb):
    tiny_model.save_pretrained(str(tmp_path / "tiny"))
    _csv(tmp_path / "texts.csv")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    model = ["--model", str(tmp_path / "tiny")]
    made = ["index", *model, "--texts", str(tmp_path / "texts.csv"), "--output", str(whole), "--kind", "hnsw"]
    assert main(made) == 0
    rng = random.Random(verb)
    for number in range(3 * EACH):
        shutil.copytree(whole, broken)
        file = rng.choice(sorted(broken.iterdir()))
        file.write_bytes(damaged(file.read_bytes(), rng))
        arguments = {
            "search": [str(broken), "a man plays a guitar", "--mode", rng.choice(("meaning", "both", "words"))],
            "add": [str(broken), "--texts", str(tmp_path / "more.txt")],
        }.get(verb, [str(broken)])
        (tmp_path / "more.txt").write_text(f"Another text, {number}.")
        model_of = model if verb in ("search", "add") else []
        refused_or_read([verb, *arguments, *model_of], capsys, (0, USAGE, 3))
        shutil.rmtree(broken)


def test_a_damaged_model(tmp_path, capsys, tiny_model):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tiny_model.save_pretrained(str(whole))
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    rng = random.Random(0)
    files = [file.relative_to(whole) for file in sorted(whole.rglob("*")) if file.is_file()]
    for number in range(3 * EACH):
        shutil.copytree(whole, broken)
        file = broken / rng.choice(files)
        file.write_bytes(damaged(file.read_bytes(), rng))
        output = ["--output", str(tmp_path / f"index{number}")]
        refused_or_read(
            ["index", "--model", str(broken), "--texts", str(tmp_path / "texts.txt"), *output], capsys, (0, USAGE)
        )
        shutil.rmtree(broken)
