"""The machine, the versions and the command that gave a number."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ["sentence-transformers-mirror", "sentence-transformers", "transformers", "torch", "datasets", "faiss-cpu"]


def environment() -> dict[str, str]:
    """Command, processor, accelerator and versions, to be kept beside a result."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "command": " ".join([*_called(), *_public(sys.argv[1:])]),
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _called() -> list[str]:
    """How this program was started: by its name, as a module or as a file."""
    program = Path(sys.argv[0])
    if program.stem in ("st-mirror", "__main__"):
        return ["st-mirror"]
    module = getattr(sys.modules["__main__"], "__spec__", None)  # none of a file
    return ["python", os.path.relpath(program)] if module is None else ["python", "-m", module.name]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout, or on a machine that has only what training needs
        return "not installed"


def _public(arguments: list[str]) -> list[str]:
    """Arguments as anybody would type them: folders have other names on each machine."""
    return [
        "DATA" if before == "--data" else Path(argument).name if os.path.isabs(argument) else argument
        for argument, before in zip(arguments, ["", *arguments], strict=False)
    ]
