from __future__ import annotations

import gzip
import sys

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from sentence_transformers_mirror import load_corpus


def texts_of(source, **options):
    dataset, report = load_corpus(source, **options)
    assert report.kept == len(dataset)
    assert report.read == report.kept + sum(report.dropped.values())
    return dataset["text"][:], report


def test_cleans_and_reports():
    texts, report = texts_of(["  a \t b\n", "", "c", "a b", " ", "d"])
    assert texts == ["a b", "c", "d"]
    assert report.dropped == {"empty": 2, "duplicate": 1}


def test_texts_are_not_in_the_pool_of_arrow_that_keeps_memory():
    before = pa.default_memory_pool().bytes_allocated()
    dataset, _ = load_corpus(f"{i} " + "a" * 500 for i in range(1_000))
    assert dataset.data.nbytes > 500_000 > 2 * (pa.default_memory_pool().bytes_allocated() - before)


def test_samples_with_a_seed_and_keeps_the_order():
    source = [str(i) for i in range(100)]
    texts, report = texts_of(source, max_texts=10)
    assert report.dropped == {"sampled out": 90}
    assert texts == sorted(texts, key=int)
    assert texts == texts_of(iter(source), max_texts=10)[0]
    assert texts != texts_of(source, max_texts=10, seed=1)[0]


def test_splits_sentences():
    texts, _ = texts_of(["Dr. Smith met Mr. Jones. They spoke.", "One more."], split_sentences=True)
    assert texts == ["Dr. Smith met Mr. Jones.", "They spoke.", "One more."]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a"])
def test_reads_lines(tmp_path, name):
    content = "\ufeffÜber alles\nzwei\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert texts_of(tmp_path / name)[0] == ["Über alles", "zwei"]
    assert texts_of(str(tmp_path / name))[0] == ["Über alles", "zwei"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_reads_tables_and_leaves_nothing_in_a_cache(tmp_path, monkeypatch, name):
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))
    path = tmp_path / name
    rows = {"id": [1, 2], "body": ["one, two", "three"]}
    if path.suffix == ".parquet":
        Dataset.from_dict(rows).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        Dataset.from_dict(rows).to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    else:
        Dataset.from_dict(rows).to_json(path)
    assert texts_of(path)[0] == rows["body"], "the only column of strings is the text"
    assert texts_of(path, column="body")[0] == rows["body"]
    with pytest.raises(ValueError, match="no column 'title'; the columns are id, body"):
        load_corpus(path, column="title")
    assert not cache.exists() or not any(p.is_file() and p.suffix == ".arrow" for p in cache.rglob("*"))


def test_reads_datasets(tmp_path):
    dataset = Dataset.from_dict({"text": ["a", "b"], "other": ["x", "y"]})
    assert texts_of(dataset)[0] == ["a", "b"]
    assert texts_of(dataset, column="other")[0] == ["x", "y"]
    assert texts_of(dataset.to_iterable_dataset())[0] == ["a", "b"]
    dataset.save_to_disk(tmp_path / "saved")
    assert texts_of(tmp_path / "saved")[0] == ["a", "b"]
    with pytest.raises(ValueError, match="Which column holds the texts.*other, more"):
        load_corpus(dataset.rename_column("text", "more").select_columns(["other", "more"]))
    with pytest.raises(ValueError, match="pass one of its splits: train"):
        load_corpus(DatasetDict(train=dataset))


def test_reports_what_it_could_not_decode(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("schön\n".encode("latin-1") + b"plain\n")
    texts, report = texts_of(path)
    assert texts == ["plain"]
    assert report.dropped == {"undecodable": 1}
    path.write_bytes("schön\nübel\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_corpus(path)


@pytest.mark.parametrize("source", [[], ["", "  "], iter(())])
def test_an_empty_corpus_is_an_error(source):
    with pytest.raises(ValueError, match="has no text"):
        load_corpus(source)


@pytest.mark.parametrize(("bad", "shown"), [(None, "None"), (3, "3"), (b"x", "b'x'"), (float("nan"), "nan")])
def test_what_is_no_string_is_named(bad, shown):
    with pytest.raises(ValueError, match=f"Row 1 of texts is {shown}, not a string"):
        load_corpus(["a", bad])


def test_bad_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load_corpus(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="folder without a saved dataset"):
        load_corpus(tmp_path)
    with pytest.raises(ValueError, match="must be a file, .* or a list of strings, not one int"):
        load_corpus(3)
    (tmp_path / "image.txt").write_bytes(b"\x89PNG\0\0")
    with pytest.raises(ValueError, match="zero byte in line 1"):
        load_corpus(tmp_path / "image.txt")
    (tmp_path / "broken.json").write_text("{not json")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load_corpus(tmp_path / "broken.json")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="has no text"):
        load_corpus(tmp_path / "empty.csv")
    (tmp_path / "no.gz").write_text("no gzip")
    with pytest.raises(ValueError, match="cannot be read"):
        load_corpus(tmp_path / "no.gz")


def test_titles(tmp_path):
    rows = {"title": ["A", None, "", "A"], "body": ["one", "two", "three", "one"], "name": ["x", "y", "z", "x"]}
    expected = [{"title": "A", "text": "one"}, {"title": "", "text": "two"}, {"title": "", "text": "three"}]
    named = Dataset.from_dict(rows)
    assert load_corpus(named, column="body")[0].to_list() == expected
    assert load_corpus(named.remove_columns("name"))[0].to_list() == expected
    assert load_corpus(named, column="body", title="name")[0]["title"][:] == ["x", "y", "z"]
    assert load_corpus([("A", "one"), "two", ("", "three"), ("A", "one")])[0].to_list() == expected
    # The same text under another title is another document; without titles there is no such column.
    assert len(load_corpus([("A", "one"), ("B", "one"), "one"])[0]) == 3
    assert load_corpus([("", "one"), "two"])[0].column_names == ["text"]
    path = tmp_path / "rows.jsonl"
    named.to_json(path)
    assert load_corpus(path, column="body", title="name")[0].to_list()[0] == {"title": "x", "text": "one"}
    with pytest.raises(ValueError, match="no column 'heading'; the columns are title, body, name"):
        load_corpus(named, column="body", title="heading")
    with pytest.raises(ValueError, match="Row 1 of texts is 3, not a string"):
        load_corpus([("a", "b"), ("a", 3)])
    # What was loaded once, with titles, can be loaded again.
    again = load_corpus(load_corpus(named, column="body")[0])[0]
    assert again.to_list() == expected


PAGES = {
    "guide.md": "Before.\n\n# The *first* `one`\n\nOne is\nhere.\n\n## Empty\n\n### Deep\n\n- a\n- b\n\n"
    "| x | y |\n|---|---|\n| 1 | 2 |\n",
    "page.html": "<html><head><title>Page</title><style>p {}</style></head><body><nav>Home</nav><p>In <b>bo</b>ld "
    "&amp; plain.<script>var x = '<h1>no</h1>'</script><h2>Next</h2>Text<br>more</body>",
    "paper.rst": "Title\n=====\n\nSee :func:`open` and :ref:`there <x>`.\n\n.. toctree::\n\n   a\n\nPart\n----\n\n"
    "Body of *it*.\n\n.. include:: /etc/passwd\n",
}


@pytest.fixture
def pages(tmp_path):
    for name, content in PAGES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def test_headings_are_titles(pages):
    assert load_corpus(pages / "guide.md")[0].to_list() == [
        {"title": "", "text": "Before."},
        {"title": "The first one", "text": "One is here."},
        {"title": "Deep", "text": "a b x y 1 2"},
    ]
    assert load_corpus(pages / "guide.md")[1].dropped == {"empty": 1}
    assert load_corpus(pages / "page.html")[0].to_list() == [
        {"title": "Page", "text": "In bold & plain."},
        {"title": "Next", "text": "Text more"},
    ]
    title, part = load_corpus(pages / "paper.rst")[0].to_list()
    assert title["title"] == "Title" and title["text"].startswith("See open and there")
    assert part == {"title": "Part", "text": "Body of it."}


def test_a_folder_of_files_with_headings(pages):
    (pages / "notes.txt").write_text("not read")
    dataset, _ = load_corpus(pages)
    assert dataset["title"][:] == ["", "The first one", "Deep", "Page", "Next", "Title", "Part"]
    (pages / "latin.md").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.md' is not UTF-8 .* at byte 0.; convert it"):
        load_corpus(pages)


def test_a_parser_that_is_missing_is_named(pages, monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    monkeypatch.setitem(sys.modules, "docutils.core", None)
    for name in ("guide.md", "paper.rst"):
        with pytest.raises(ImportError, match=r"pip install 'sentence-transformers-mirror\[documents\]'"):
            load_corpus(pages / name)
    assert len(load_corpus(pages / "page.html")[0]) == 2
