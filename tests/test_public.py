"""What is promised to other programs: the public names, and that editors and type checkers know them."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import sentence_transformers_mirror
from sentence_transformers_mirror.cli.main import parser_of_all

NAMES = """
CachedMirrorLoss CharSpanMask CorpusReport DocumentViews Hit MilvusSearch MirrorLoss RECIPES Recipe SearchIndex
TokenSpanMask TuningResult compare drophead dropout_rate embedded_model_path encode_shards evaluate export
generated_queries load_corpus
mirror_tune nt_xent two_views
""".split()

VERBS = """
tune --column --debug --device --force --json --keep-worse --max-texts --model --no-guard --output --prompt --quiet --recipe --seed --set --split-sentences --texts --title --verbose
quickstart --debug --device --force --json --output --quiet --seed --verbose
evaluate --data --debug --device --json --output --quiet --suite --verbose MODEL
compare --column --debug --device --json --labels --output --plots --quiet --seed --structure --texts --title --verbose AFTER BEFORE
encode --column --debug --device --dimensions --engine --ids --json --metadata --model --output --quiet --texts --threads --verbose --workers
index --column --debug --device --dimensions --force --ids --json --kind --language --metadata --model --output --passages --quiet --shards --texts --verbose
export --debug --json --output --quiet --shards --verbose
add --column --debug --device --force --ids --json --metadata --model --quiet --texts --verbose INDEX
search --candidates --debug --device --fusion --json --mode --model --quiet --rerank --threshold --top-k --verbose --weight --where INDEX QUERY
info --debug --json --quiet --verbose INDEX
verify --debug --json --quiet --verbose INDEX
demo --before --debug --device --host --json --model --port --quiet --verbose INDEX
"""  # noqa: E501


def test_verbs_and_flags_stay():
    verbs = next(one for one in parser_of_all()._actions if isinstance(one, argparse._SubParsersAction))
    found = []
    for verb, parser in verbs.choices.items():
        names = ((one.option_strings or [one.dest.upper()])[-1] for one in parser._actions)
        found.append(" ".join([verb, *sorted(set(names) - {"--help"})]))
    assert found == VERBS.strip().splitlines()


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


def test_modules_are_known_by_the_names_of_before_they_had_rooms():
    from sentence_transformers_mirror import evaluation, evidence, tuning

    assert evaluation.evaluate is sentence_transformers_mirror.evaluate
    assert tuning.mirror_tune is sentence_transformers_mirror.mirror_tune
    assert evidence.compare is sentence_transformers_mirror.compare and evidence.split_parts is not None
