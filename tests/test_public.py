"""What is promised to other programs: the public names, and that editors and type checkers know them."""

from __future__ import annotations

import ast
from pathlib import Path

import sentence_transformers_mirror

NAMES = """
CachedMirrorLoss CharSpanMask CorpusReport DocumentViews Hit MirrorLoss RECIPES Recipe SearchIndex
TokenSpanMask TuningResult compare drophead dropout_rate embedded_model_path evaluate load_corpus mirror_tune
nt_xent two_views
""".split()


def test_public_names_stay_and_are_there():
    assert sorted(sentence_transformers_mirror.__all__) == sorted(NAMES)
    assert all(getattr(sentence_transformers_mirror, name) is not None for name in NAMES)


def test_the_program_that_is_type_checked_uses_every_public_name():
    tree = ast.parse(Path(__file__).with_name("typed.py").read_text())
    imported = next(
        [one.name for one in node.names]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "sentence_transformers_mirror"
    )
    assert sorted(imported) == sorted(NAMES)
