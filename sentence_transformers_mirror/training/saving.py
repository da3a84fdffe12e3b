"""Save a model whole or not at all: it is written beside its place and then takes it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HISTORY = "mirror_tune.json"  # the result of tuning, in the folder of the model
# Of an older model in a folder, what a newer one must not be mixed with; all else in there is kept.
_OF_A_MODEL = re.compile(r"(model|pytorch_model)[\w.-]*\.(safetensors|bin)(\.index\.json)?|\d+_\w+|mirror_tune\.json")


def refuse_model(folder: str | Path, overwrite: bool) -> None:
    """Raise FileExistsError where a model lies that is not to be overwritten."""
    folder = Path(folder)
    if not overwrite and any((folder / name).exists() for name in ("modules.json", "config.json")):
        raise FileExistsError(
            f"There is a model in {str(folder)!r} already: choose another folder, or replace it with overwrite=True."
        )


def require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"The output folder {str(folder)!r} cannot be written ({error}); choose another.") from error


def save_whole(write: Callable[[Path], None], folder: str | Path) -> None:
    """Let a function write a folder, and exchange what lies there for it once all of it is on the disk.

    Files in it that are none of a model are kept. Whatever breaks in leaves the old folder or the new one; where no
    call exchanges two (Windows, some file systems), the old one may then lie beside, with a name in ``.old``.
    """
    place = Path(folder).resolve()
    tag = secrets.token_hex(4)
    fresh = place.with_name(f".{place.name}.{tag}.new")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.mkdir()
        except PermissionError:  # only the folder itself may be written
            place.mkdir(exist_ok=True)
            fresh = place / f".{tag}.new"
            fresh.mkdir()
        write(fresh)
        if fresh.parent != place:
            _keep_others(place, fresh)
        _sync(fresh)
        _take_place(fresh, place)
        _sync_folder(place.parent)
    except OSError as error:
        raise OSError(
            f"The model could not be saved in {str(place)!r}, what was there is unchanged: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # now the old one, if they were exchanged


def _keep_others(place: Path, fresh: Path) -> None:
    for entry in place.iterdir() if place.is_dir() else ():
        target = fresh / entry.name
        if _OF_A_MODEL.fullmatch(entry.name) or target.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(entry, target)


def _link(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _take_place(fresh: Path, place: Path) -> None:
    if fresh.parent == place:
        _move_files(fresh, place)
    elif not place.exists():
        os.rename(fresh, place)
    elif not _exchange(os.fsencode(fresh), os.fsencode(place)):
        old = fresh.with_suffix(".old")
        try:
            os.rename(place, old)
        except OSError:  # a mounted folder, or one that a program has open on Windows
            _move_files(fresh, place)
            return
        try:
            os.rename(fresh, place)
        except BaseException:
            os.rename(old, place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _move_files(fresh: Path, place: Path) -> None:
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        target = place / file.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)


def _exchange(first: bytes, second: bytes) -> bool:
    """Exchange two folders in one call, where the system has one."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if sys.platform == "linux":
            here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
            return library.renameat2(here, first, here, second, exchange) == 0
        if sys.platform == "darwin":
            return library.renamex_np(first, second, 2) == 0  # RENAME_SWAP
    return False


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        with contextlib.suppress(OSError):  # some file systems cannot
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
