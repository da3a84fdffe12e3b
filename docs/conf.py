"""How Sphinx makes the documentation: `python -m sphinx -W -b html docs build/docs`."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout, suppress
from dataclasses import fields

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["COLUMNS"] = "100"  # the width of the help texts

from sentence_transformers_mirror import RECIPES, __version__  # noqa: E402
from sentence_transformers_mirror.cli import main  # noqa: E402

project = "sentence-transformers-mirror"
author = copyright = "the authors of sentence-transformers-mirror"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
default_role = "py:obj"  # docstrings name objects of the package in single backticks

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autoclass_content = "both"  # the losses are described where they are made, as those of the host are
napoleon_use_ivar = True
napoleon_custom_sections = ["Inputs", "Recommendations", "Relations", "Requirements"]

# Links into the documentation of other projects need their inventories, which only a network has. So they are made
# where the site is built for others to read; without one of these variables the build needs no network.
intersphinx_mapping = {}
if os.environ.get("READTHEDOCS") or os.environ.get("DOCS_ONLINE"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://pytorch.org/docs/stable", None),
        "sentence_transformers": ("https://sbert.net", None),
    }


class Recipes(SphinxDirective):
    """A table of all recipes: a row for each field, a column for each recipe."""

    def run(self) -> list[nodes.Node]:
        lines = [["field", *(f"`{name}`" for name in RECIPES)], ["---"] * (1 + len(RECIPES))]
        for field in fields(next(iter(RECIPES.values()))):
            values = (getattr(recipe, field.name) for recipe in RECIPES.values())
            lines.append([f"`{field.name}`", *map(_told, values)])
        return self.parse_text_to_nodes("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _told(value: object) -> str:
    """A value of a recipe as a cell of the table."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return str(value)
    return f"`{type(value).__name__}()`"


class Help(SphinxDirective):
    """What a verb of the command line says after ``--help``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        said = io.StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main([self.arguments[0], "--help"])
        return [nodes.literal_block(text=said.getvalue(), language="text")]


def setup(app: Sphinx) -> None:
    app.add_directive("recipes", Recipes)
    app.add_directive("help", Help)
