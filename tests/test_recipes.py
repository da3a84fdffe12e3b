from __future__ import annotations

import pytest

from sentence_transformers_mirror import RECIPES, Recipe
from sentence_transformers_mirror.training.recipes import resolve


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid(name):
    assert resolve(name) == RECIPES[name]


def test_the_papers_values():
    sentence, word = RECIPES["sentence"], RECIPES["word"]
    assert (sentence.temperature, sentence.epochs, sentence.max_length) == (0.04, 1, 50)
    assert (sentence.learning_rate, sentence.batch_size, sentence.weight_decay) == (2e-5, 200, 0.01)
    assert (word.temperature, word.epochs, word.max_length, word.mask) == (0.2, 2, 25, None)
    assert (RECIPES["sentence-drophead"].dropout, RECIPES["sentence-drophead"].drophead) == (0.0, 0.2)


def test_overrides():
    recipe = resolve("sentence", learning_rate=1e-3, epochs=3)
    assert (recipe.learning_rate, recipe.epochs, recipe.temperature) == (1e-3, 3, 0.04)
    assert resolve(Recipe(temperature=0.1, mask=None, max_length=9), batch_size=4).batch_size == 4


def test_unknown_names_are_corrected():
    with pytest.raises(ValueError, match="did you mean 'sentence'.*sentence, sentence-small"):
        resolve("sentense")
    with pytest.raises(ValueError, match="has no 'learning_rat' .did you mean 'learning_rate'"):
        resolve("sentence", learning_rat=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("mask", 1.0),
        ("dropout", 1.0),
        ("drophead", -0.1),
        ("learning_rate", 0.0),
        ("epochs", 0),
        ("batch_size", 1),
        ("max_length", 2),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        resolve("sentence", **{name: value})


def test_twins_are_refused():
    with pytest.raises(ValueError, match="identical"):
        resolve("sentence", mask=None, dropout=0.0)
    assert resolve("sentence", mask=None, dropout=None).dropout is None  # the model's own rate, known later
