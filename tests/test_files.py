"""What stands in a table comes out of it, through every door."""

from __future__ import annotations

import csv
import gzip
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentence_transformers_mirror import SearchIndex, load_corpus
from sentence_transformers_mirror.search.entries import columns, windows
from sentence_transformers_mirror.texts.files import read_rows, typed

FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Without halves of characters and NUL; with what delimits, quotes, ends lines and looks like something else.
CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
ODD = st.sampled_from(
    ["", "NA", "null", "None", "nan", "inf", "007", "7", "-0", "1e5", "0.5", "2024-01-01", '"', '""', "a\tb", "x,y"]
    + ["line\nbreak", "line\r\nbreak", "\r", '"a\tb\nc"', "True", "\ufeff", "\u2028", "12345678901234567890", " pad "]
)
STRINGS = st.one_of(ODD, st.text(CHARACTERS, max_size=20), st.text('"\t\n\r, a', max_size=8))
TEXTS = STRINGS.filter(str.strip)
ROWS = st.lists(st.tuples(TEXTS, STRINGS), min_size=1, max_size=6)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=6,
)


def written(cell: str) -> str | int | float:
    """The rule for a cell, said in other words than the package says it."""
    for kind in (int, float):
        try:
            if str(kind(cell)) == cell and math.isfinite(kind(cell)):
                return kind(cell)
        except ValueError:
            pass
    return cell


@FEW
@given(ROWS, st.sampled_from([",", "\t"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_a_table_of_cells_gives_back_what_was_written(tmp_path, rows, delimiter, quoting, bom):
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerows([("text", "more"), *rows])
    texts, _, extra = columns(path, metadata=["more"])
    assert list(zip(texts, (one["more"] for one in extra), strict=True)) == [(a, written(b)) for a, b in rows]
    ((window),) = windows(str(path), None, None, 100)
    assert window.texts == [text for text, _ in rows]
    folded = list(dict.fromkeys(" ".join(text.split()) for text, _ in rows))
    assert load_corpus(path, column="text")[0]["text"][:] == folded


@FEW
@given(st.lists(st.tuples(TEXTS, VALUES), min_size=1, max_size=5), st.booleans())
def test_json_gives_back_what_was_written(tmp_path, rows, ascii_only):
    found = [{"text": text, "more": more} for text, more in rows]
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in found)
    whole = json.dumps(found, ensure_ascii=ascii_only)
    for name, content in (("a.jsonl", lines), ("a.ndjson", lines), ("a.json", whole), ("b.json", lines)):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        assert [row for _, row in read_rows(tmp_path / name)] == found
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        texts, _, extra = columns(tmp_path / f"{name}.gz", metadata=["more"])
        assert [{"text": text, **more} for text, more in zip(texts, extra, strict=True)] == found


@FEW
@given(st.lists(st.tuples(TEXTS, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | STRINGS), min_size=1))
def test_parquet_gives_back_what_was_written(tmp_path, rows):
    found = [{"text": text, "number": number, "word": word} for text, number, word in rows]
    schema = pa.schema([("text", pa.string()), ("number", pa.int64()), ("word", pa.string())])
    pq.write_table(pa.Table.from_pylist(found, schema=schema), tmp_path / "a.parquet")
    texts, _, extra = columns(tmp_path / "a.parquet", metadata=["number", "word"])
    assert [{"text": text, **more} for text, more in zip(texts, extra, strict=True)] == found


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tid\n"hello\t1\nworld\t2\n', ['"hello', "world"]),
        ('text\tid\n5" disk\t1\n"quoted" word\t2\n', ['5" disk', '"quoted" word']),
        ('text\tid\r\nsay "hi"\t1\r\n"ho\t2\r\n', ['say "hi"', '"ho']),
        ('text\tid\n"a ""b"""\t1\nplain\t2\n', ['a "b"', "plain"]),
        ('text\tid\n"two\nlines"\t1\n', ["two\nlines"]),
    ],
)
def test_a_quotation_mark_in_a_tsv_swallows_no_row(tmp_path, content, texts):
    (tmp_path / "a.tsv").write_text(content, newline="")
    assert list(columns(tmp_path / "a.tsv")[0]) == texts


@pytest.mark.parametrize(
    "cell", ["007", "1e5", "+1", "1_000", "-0", "0x1", "1.", ".5", "1.50", "NaN", "inf", "٣", "True"]
)
def test_what_is_no_number_stays_as_it_stands(cell):
    assert typed(cell) == cell and isinstance(typed(cell), str)


@pytest.mark.parametrize("cell", ["7", "-7", "0", "0.5", "-0.0", "99999999999999999999", "1e+16", "1e-07"])
def test_what_is_a_number_is_one(cell):
    assert not isinstance(typed(cell), str) and str(typed(cell)) == cell


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,id\none,1\ntwo,2,3\n", "Line 3 .* has 3 cells and the header 2"),
        ("a.tsv", "text\tid\none\t1\t2\n", "Line 2 .* has 3 cells"),
        ("a.csv", 'text\n"one\n', "Line 2 .* cannot be read"),
        ("a.csv", "text,text\na,b\n", "two columns 'text'"),
        ("a.csv", "id,text\n1,a\n,b\n", "Line 3 .* column 'id' is empty"),
        ("a.jsonl", '{"text": "a", "id": 1}\n{"text": "b", "id": 1.5}\n', "Line 2 .*neither int nor str"),
        ("a.jsonl", '{"text": "a", "id": 1}\n{"text": 3, "id": 2}\n', "Line 2 .* is 3 and no string"),
        ("a.jsonl", '{"text": "a", "id": 1}\n{"text": \n', "Line 2 .* cannot be read as JSON"),
        ("a.jsonl", '{"text": "a", "id": 1}\n[1]\n', "Line 2 .* is no object"),
        ("a.jsonl", '{"text": "a", "id": NaN}\n', "NaN is no number"),
        ("a.jsonl", '{"text": "a\\ud800", "id": 1}\n', "Line 1 .*half a character"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, "nested too deeply"),
        ("a.json", '[{"text": "a", "id": 1}, 7]', "Row 2 .* is no object"),
        ("a.parquet", "no parquet", "cannot be read as parquet"),
        ("a.csv.gz", "no gzip", "cannot be read as gzip"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):  # a cell is a value, so that the shell tells no bug
        texts, ids, _ = columns(tmp_path / name, item="id")
        list(zip(texts, ids, strict=True))


def test_every_damage_to_a_compressed_file_is_a_value_error(tmp_path):
    whole = gzip.compress("".join(f"sentence {i} about {i * 7919 % 1000}\n" for i in range(2000)).encode())
    for place in range(0, len(whole), len(whole) // 80):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        for name in ("a.txt.gz", "a.csv.gz", "a.jsonl.gz"):
            (tmp_path / name).write_bytes(bytes(damaged))
            try:
                load_corpus(tmp_path / name)
            except ValueError:
                pass


def test_exactly_the_named_file_is_read(tmp_path):
    (tmp_path / "notes[1].csv").write_text("text\nmine\n")
    (tmp_path / "notes1.csv").write_text("text\nanother\n")
    assert load_corpus(tmp_path / "notes[1].csv")[0]["text"][:] == ["mine"]
    assert list(columns(tmp_path / "notes[1].csv")[0]) == ["mine"]


def test_blank_texts_are_left_out_and_counted(tmp_path, caplog, tiny_model):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,\n3, \n4,four\n")
    skipped: list[str] = []
    texts, ids, _ = columns(tmp_path / "a.csv", item="id", skipped=skipped)
    assert list(zip(texts, ids, strict=True)) == [("one", 1), ("four", 4)] and skipped == ["line 3", "line 4"]
    assert load_corpus(tmp_path / "a.csv")[1].dropped == {"empty": 2}
    index = SearchIndex.build(tiny_model, str(tmp_path / "a.csv"))
    assert len(index) == 2 and "2 rows of" in caplog.text and "first line 3" in caplog.text


def test_what_is_no_list_of_texts_is_refused():
    pandas = pytest.importorskip("pandas")
    for data in (pandas.DataFrame({"text": ["a", "b"]}), {"text": ["a"]}, pa.table({"text": ["a"]}), b"text", 3, None):
        for read in (load_corpus, lambda data: SearchIndex.from_vectors(np.eye(2, 4), data)):
            with pytest.raises((TypeError, ValueError), match="texts"):
                read(data)
