"""Documentation strings: prose that lies on every machine that has Python."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from sentencex import segment

from sentence_transformers_mirror.terminal import bar

# Third-party packages, tests, and programs that come along with the library.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?")


@dataclass(frozen=True)
class Docstring:
    """The prose of one documentation string."""

    file: str  # of the module, relative to the library
    name: str  # of what it documents, such as ``shutil.copyfile``
    first: str  # sentence
    rest: tuple[str, ...]  # the other sentences; there may be none

    @property
    def text(self) -> str:
        return " ".join((self.first, *self.rest))


def read_docstrings(library: str | Path | None = None) -> list[Docstring]:
    """The docstrings of public names in a folder of modules, by default Python's library; nothing is imported."""
    library = Path(library or sysconfig.get_paths()["stdlib"])
    found: dict[str, Docstring] = {}
    for path in bar(sorted(library.rglob("*.py")), desc="Reading docstrings", unit="file"):
        file = path.relative_to(library)
        if _SKIPPED.intersection(file.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, and files in other encodings
            continue
        module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        for name, text in _documented(tree, module):
            if prose := sentences(text):
                # Getter and setter of a property, and other definitions of one name: the first is the one to read.
                found.setdefault(name, Docstring(file.as_posix(), name, prose[0], tuple(prose[1:])))
    if not found:
        raise FileNotFoundError(
            f"There is no Python source with docstrings in {str(library)!r}; use a Python that comes with the source "
            "of its standard library, as those of python.org, conda and uv do."
        )
    return list(found.values())


def split(docstrings: list[Docstring], seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Two thirds of the module files to tune on, the others to measure on.

    Gives the distinct docstrings of the first part; and of each docstring of the second that has more than one
    sentence the first and the rest, as one string, all distinct and none with a sentence of the first part.
    """
    files = sorted({docstring.file for docstring in docstrings})
    held_out = set(random.Random(seed).sample(files, len(files) // 3))
    training = [d for d in docstrings if d.file not in held_out]
    seen = {sentence for d in training for sentence in (d.first, *d.rest)}
    pairs = []
    for d in docstrings:
        pair = d.first, " ".join(d.rest)
        if d.file in held_out and d.rest and seen.isdisjoint((*pair, *d.rest)):
            pairs.append(pair)
            seen.update(pair)
    return list(dict.fromkeys(d.text for d in training)), pairs


def _documented(node: ast.Module | _Definition, name: str) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body:
        if isinstance(child, _Definition) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}")


def sentences(docstring: str) -> list[str]:
    """The sentences of a docstring, without signatures, examples, tables and fragments."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        # What an example prints goes on to the end of the paragraph.
        lines = takewhile(lambda line: not line.startswith((">>>", "$ ")), map(str.strip, paragraph.splitlines()))
        prose = " ".join(line for line in lines if not _SIGNATURE.fullmatch(line))
        found += filter(_is_prose, map(str.strip, segment("en", prose)))
    return found


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character in " '" for character in text)
    return len(text.split()) >= 4 and len(text) <= 400 and letters >= 0.85 * len(text)
