"""Documentation strings: prose that lies on every machine that has Python."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sentencex import segment

from sentence_transformers_mirror.terminal import bar

# Third-party packages, tests, and programs that come along with the library.
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip", "turtledemo"}
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?")


@dataclass(frozen=True)
class Docstring:
    """The prose of one documentation string.

    Attributes:
        file: The file of the module, relative to the library.
        name: The name that the docstring documents, such as ``shutil.copyfile``.
        first: The first sentence of the docstring.
        rest: The other sentences; there may be none.
    """

    file: str
    name: str
    first: str
    rest: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of them."""
        return " ".join((self.first, *self.rest))


def read_docstrings(library: str | Path | None = None) -> list[Docstring]:
    """The documentation strings of a folder of modules, read from the source without importing anything.

    Args:
        library: The folder; by default the standard library of the running Python.

    Returns:
        One entry for each public name with at least one sentence of prose about it, in the order of the files.

    Raises:
        FileNotFoundError: If there is no source with docstrings in the folder.
    """
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

    Args:
        docstrings: The docstrings that `read_docstrings` gives.
        seed: Seed for the choice of files.

    Returns:
        The distinct docstrings of the training part; and of each docstring of the held-out part that has more than one
        sentence the first and the rest, as one string, all distinct and none with a sentence of the training part.
    """
    files = sorted({docstring.file for docstring in docstrings})
    held_out = set(random.Random(seed).sample(files, len(files) // 3))
    training = [d for d in docstrings if d.file not in held_out]
    seen = {sentence for d in training for sentence in (d.first, *d.rest)}
    pairs = []
    for d in docstrings:
        rest = " ".join(d.rest)
        if d.file in held_out and d.rest and seen.isdisjoint((d.first, rest, *d.rest)):
            pairs.append((d.first, rest))
            seen.update((d.first, rest))
    return list(dict.fromkeys(d.text for d in training)), pairs


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}")


def sentences(docstring: str) -> list[str]:
    """The sentences of a docstring, without signatures, examples, tables and fragments."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = []
        for line in map(str.strip, paragraph.splitlines()):
            if line.startswith((">>>", "$ ")):
                break  # what an example prints goes on to the end of the paragraph
            if not _SIGNATURE.fullmatch(line):
                lines.append(line)
        found += filter(_is_prose, map(str.strip, segment("en", " ".join(lines))))
    return found


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character in " '" for character in text)
    return len(text.split()) >= 4 and len(text) <= 400 and letters >= 0.85 * len(text)
