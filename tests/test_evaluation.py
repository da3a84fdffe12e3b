from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sentence_transformers_mirror.cli import main
from sentence_transformers_mirror.evidence.evaluation import LinkingEvaluator, evaluate, labelled_sets, link_ranks
from sentence_transformers_mirror.evidence.labels import Linking, read_linking, read_pairs

ROWS = [
    ("The cat sat.", "A cat was sitting.", 4.5),
    ("Open the file.", "The list is written.", 1.0),
    ("A dog barks.", "The dog is loud.", 3.25),
    ("Close the window.", "Shut the window.", 5.0),
]
KNOWN = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS-B train": 5749, "STS-B dev": 1500}
KNOWN |= {"STS-B": 1379, "SICK-R dev": 500, "SICK-R train": 4500, "STS17 ar-ar": 250, "STS17 es-es": 250}
KNOWN |= {"SimLex-999": 999, "WordSim-353": 353, "RareWord": 2034, "Multi-SimLex ENG": 1888, "BIOSSES": 100}
KNOWN |= {"Multi-SimLex FRA": 1888, "UMNSRS": 566}


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def plain(folder, name="STSB.test.tsv", rows=ROWS, columns=("sentence1", "sentence2")):
    write(folder / name, "\t".join(["score", *columns]), *(f"{s}\t{a}\t{b}" for a, b, s in rows))


@pytest.mark.parametrize(("name", "count"), KNOWN.items())
def test_known_counts(data_dir, name, count):
    assert len(read_pairs(data_dir, name)) == count


def test_known_counts_of_linking(data_dir):
    linking = read_linking(data_dir, "NCBI disease dev")
    assert (len(linking), len(linking.names)) == (787, 76_237)
    assert frozenset({"D007674", "D006222"}) in linking.gold  # joined by + there
    assert frozenset({"300322", "102600"}) in linking.gold  # and with the name of their vocabulary
    assert frozenset({"C567755", "613097"}) in linking.ids  # and by a broken bar here


def test_spearman_is_that_of_scipy_and_absent_sets_are_named(tmp_path, tiny_model):
    plain(tmp_path)
    scores = {score.name: score for score in evaluate(tiny_model, tmp_path, "sts")}
    first, second, gold = zip(*ROWS, strict=True)
    a, b = (tiny_model.encode(list(texts), normalize_embeddings=True) for texts in (first, second))
    assert scores["STS-B"].value == pytest.approx(100 * spearmanr((a * b).sum(axis=1), gold).statistic)
    assert scores["STS-B"].size == 4
    assert scores["STS12"].value is None and scores["STS12"].size == 0
    assert scores["average of seven"].value is None


def test_average_of_seven(tmp_path, tiny_model):
    for number, name in enumerate([f"STS{year}.test.tsv" for year in range(12, 17)]):
        plain(tmp_path, name, ROWS[number % 2 :])
    plain(tmp_path)
    plain(tmp_path, "SICK-R.test.tsv", ROWS[1:])
    scores = {score.name: score for score in evaluate(tiny_model, tmp_path, "sts")}
    seven = [scores[name].value for name in ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R")]
    assert scores["average of seven"].value == pytest.approx(sum(seven) / 7)
    assert scores["average of seven"].size == 25


def test_formats_as_published(tmp_path):
    plain(tmp_path / "plain")
    expected = read_pairs(tmp_path / "plain", "STS-B")

    write(tmp_path / "b/sts-test.csv", *(f"main\tfile\t2012\t7\t{s}\t{a}\t{b}\tsource" for a, b, s in ROWS))
    assert read_pairs(tmp_path / "b", "STS-B") == expected

    folder = tmp_path / "c/STS12-en-test"
    for name, rows in (("A", ROWS[:1]), ("B", ROWS[1:])):  # two subsets, one with a pair that nobody scored
        write(folder / f"STS.input.{name}.txt", *(f"{a}\t{b}" for a, b, _ in rows), "no\tscore")
        write(folder / f"STS.gs.{name}.txt", *(str(s) for *_, s in rows), "")
    assert read_pairs(tmp_path / "c", "STS12") == expected

    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    rows = [f"{i}\t{a}\t{b}\t{s}\tNEUTRAL" for i, (a, b, s) in enumerate(ROWS)]
    write(tmp_path / "d/SICK_test_annotated.txt", header, *rows)
    assert read_pairs(tmp_path / "d", "SICK-R") == expected
    write(
        tmp_path / "e/SICK_annotated.txt",
        header + "\tSemEval_set",
        "9\tx\ty\t1\tNEUTRAL\tTRAIN",
        *(f"{row}\tTEST" for row in rows),
    )
    assert read_pairs(tmp_path / "e", "SICK-R") == expected

    write(tmp_path / "f/SimLex-999.txt", "word1\tword2\tPOS\tSimLex999", *(f"{a}\t{b}\tN\t{s}" for a, b, s in ROWS))
    assert read_pairs(tmp_path / "f", "SimLex-999") == expected

    words = (f'{i},"{a}","{b}",chat,chien' for i, (a, b, _) in enumerate(ROWS))
    write(tmp_path / "g/translation.csv", "ID,ENG 1,ENG 2,FRA 1,FRA 2", *words)
    write(tmp_path / "g/scores.csv", "ID,ENG,FRA", *(f"{i},{s},{i}" for i, (*_, s) in enumerate(ROWS)))
    assert read_pairs(tmp_path / "g", "Multi-SimLex ENG") == expected
    assert read_pairs(tmp_path / "g", "Multi-SimLex FRA").scores == [0, 1, 2, 3]

    write(tmp_path / "h/processed_test/1.concept", "1||0|3||Disease||flu||D1+D2", "1||5|9||Disease||cold||D3")
    write(tmp_path / "h/test_dictionary.txt", "D1|X||influenza", "D3||common cold", "D2||grippe")
    linking = read_linking(tmp_path / "h", "NCBI disease")
    assert linking.mentions == ["flu", "cold"] and linking.gold == [{"D1", "D2"}, {"D3"}]
    assert linking.names == ["influenza", "common cold", "grippe"] and linking.ids == [{"D1", "X"}, {"D3"}, {"D2"}]


def plain_loop(similarities, gold, ids):
    """Mean rank of the first right name over all orders of the ties."""
    ranks = []
    for line, wanted in zip(similarities, gold, strict=True):
        found = []
        for order in itertools.permutations(range(len(ids))):
            if all(line[a] >= line[b] for a, b in itertools.pairwise(order)):
                found.append(next(place for place, name in enumerate(order, start=1) if ids[name] & wanted))
        ranks.append(np.mean(found))
    return np.array(ranks)


@given(st.data())
def test_linking_is_a_plain_loop(data):
    dimension, names = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    draw_ids = st.frozensets(st.sampled_from("abc"), min_size=1, max_size=2)
    ids = data.draw(st.lists(draw_ids, min_size=names, max_size=names))
    known = sorted(frozenset().union(*ids))
    gold = data.draw(st.lists(st.frozensets(st.sampled_from(known), min_size=1), min_size=1, max_size=3))
    # Few different vectors, so that many names tie.
    axes = np.eye(dimension, dtype=np.float32)
    pick = lambda count: axes[data.draw(st.lists(st.integers(0, dimension - 1), min_size=count, max_size=count))]  # noqa: E731
    mentions, vectors = pick(len(gold)), pick(names)
    expected = plain_loop((mentions @ vectors.T).tolist(), gold, ids)
    np.testing.assert_allclose(link_ranks(mentions, vectors, gold, ids), expected)


def test_a_collapsed_model_links_nothing(tiny_model, monkeypatch):
    names = [f"name {i}" for i in range(9)]
    linking = Linking(["a", "b"], [frozenset("0"), frozenset("8")], names, [frozenset(str(i)) for i in range(9)])
    monkeypatch.setattr(tiny_model, "encode", lambda texts, **_: np.ones((len(texts), 4), np.float32) / 2)
    evaluator = LinkingEvaluator(linking, "x")
    assert evaluator(tiny_model) == {"x_accuracy@1": 0.0, "x_accuracy@5": 1.0}  # rank 5 is that of chance
    assert evaluator.primary_metric == "x_accuracy@1"
    monkeypatch.setattr(tiny_model, "encode", lambda texts, **_: np.full((len(texts), 4), np.nan))
    with pytest.raises(ValueError, match="not numbers"):
        evaluator(tiny_model)


def test_a_collapsed_model_has_no_correlation(tmp_path, tiny_model, monkeypatch):
    plain(tmp_path)
    monkeypatch.setattr(tiny_model, "encode", lambda texts, **_: np.ones((len(texts), 4), np.float32))
    with pytest.raises(ValueError, match="equally alike.*collapsed"):
        evaluate(tiny_model, tmp_path, "sts")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["score\tsentence1\tsentence2", "1\ta\tb", "2\ta"], "STSB.test.tsv, line 3 has 2 columns and not 3"),
        (["score\tsentence1\tsentence2", "1\ta\t ", "2\ta\tb"], "line 2 has an empty text"),
        (["score\tsentence1\tsentence2", "1\ta\tb", "x\ta\tb"], "line 3 has the score 'x', which is no number"),
        (["score\tsentence1\tsentence2", "1\ta\tb", "2\ta\tb"], "has 2 pairs; a correlation needs three"),
        (["score\tsentence1\tsentence2", "1\ta\tb", "1\tc\td", "1\te\tf"], "All pairs of STS-B .* the score 1;"),
        (["score\ttext1\ttext2", "1\ta\tb"], "has no column 'sentence1' but score, text1, text2"),
    ],
)
def test_damaged_pairs(tmp_path, lines, message):
    write(tmp_path / "STSB.test.tsv", *lines)
    with pytest.raises(ValueError, match=message):
        labelled_sets(tmp_path, "sts")


def test_damaged_releases(tmp_path):
    write(tmp_path / "STS12-en-test/STS.input.A.txt", "a\tb", "c\td")
    with pytest.raises(ValueError, match="has no STS.gs.A.txt beside it"):
        read_pairs(tmp_path, "STS12")
    write(tmp_path / "STS12-en-test/STS.gs.A.txt", "1")
    with pytest.raises(ValueError, match="different numbers of lines"):
        read_pairs(tmp_path, "STS12")
    write(tmp_path / "SICK_annotated.txt", "sentence_A\tsentence_B\trelatedness_score", "a\tb\t1")
    with pytest.raises(ValueError, match="has no column 'SemEval_set' but sentence_A, sentence_B, relatedness_score"):
        read_pairs(tmp_path, "SICK-R")
    write(tmp_path / "processed_test/1.concept", "1||0|3||Disease||flu||D1")
    write(tmp_path / "test_dictionary.txt", "D2||grippe")
    with pytest.raises(ValueError, match="1.concept, line 1: no entry of test_dictionary.txt has one of the ids D1"):
        read_linking(tmp_path, "NCBI disease")
    write(tmp_path / "ncbi_disease.dev.tsv", "mention\tcui", "flu\tD1")
    write(tmp_path / "dictionary_medic_2012.tsv", "cui", "D1")
    with pytest.raises(ValueError, match="dictionary_medic_2012.tsv, line 2 has an empty text or no id"):
        read_linking(tmp_path, "NCBI disease dev")
    write(tmp_path / "test_dictionary.txt", "D2")
    with pytest.raises(ValueError, match="line 1 has 1 columns and not at least 2"):
        read_linking(tmp_path, "NCBI disease")


def test_bad_folders(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="no suite 'stss'; the suites are sts, words, linking and all"):
        evaluate(tiny_model, tmp_path, "stss")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        evaluate(tiny_model, tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="has none of the sets of 'words' .SimLex-999"):
        evaluate(tiny_model, tmp_path, "words")


def test_command_line(tmp_path, tiny_model, capsys):
    tiny_model.save_pretrained(str(tmp_path / "model"))
    plain(tmp_path / "data")
    plain(tmp_path / "data", "simlex999.tsv", columns=("word1", "word2"))
    arguments = ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "data")]
    assert main([*arguments, "--suite", "words", "--output", str(tmp_path / "kept.json")]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["words", "SimLex-999", "spearman_cosine"] and first.split()[-1] == "4"
    assert second.endswith("absent") or second.split()[-1] == "absent"
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert {"command", "cpu", "torch"} <= set(kept["environment"])
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    value = {score["name"]: score["value"] for score in printed["scores"]}
    assert value["SimLex-999"] == kept["scores"][0]["value"] and value["NCBI disease"] is None
    assert main(["evaluate", str(tmp_path / "model"), "--data", str(tmp_path), "--suite", "none"]) == 2
    assert "no suite 'none'" in capsys.readouterr().err
