"""Provenance: what ran, beside the commit that config.json names.

    source/changes.diff     how the checkout's tracked files differed from the commit
    source/...              the experiment's modules, by the names under which they are imported

Data, models and other runs are never in it, wherever they lie.
"""

import shutil
import subprocess
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from agentrl.callables import ROOT, experiment_modules

MAX_BYTES = 2**20
"""Of the diff, and of a module; a longer diff is cut, and a longer module is data."""
MAX_MODULES = 500
SECRETS = (".env*", "*.pem", "*.key", ".netrc")
"""They lie beside source, and a run's folder is passed on."""


def save_source(folder: Path, names: Iterable[str]) -> None:
    """Write the folder. names: of the experiment's module and its callables."""
    folder.mkdir()
    if changes := _changes():
        (folder / "changes.diff").write_bytes(changes)
    for name, file in list(_files(names))[:MAX_MODULES]:
        path = folder / name
        # Two files of one name can only have been given by their paths.
        path = folder / file.parent.name / name if path.exists() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, path)


def _changes() -> bytes:
    """``git diff HEAD``; nothing where there is no git, or no commit."""
    but = [f":(exclude,glob)**/{secret}" for secret in SECRETS]
    command = [
        "git",
        "diff",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "HEAD",
        "--",
        ".",
        *but,
    ]
    try:
        git = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    # There is no git.
    except OSError:
        return b""
    with git:
        changes = git.stdout.read(MAX_BYTES + 1)
        git.kill()
    return changes if len(changes) <= MAX_BYTES else changes[:MAX_BYTES] + b"\n[cut here]\n"


def _files(names: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for name, module in sorted(experiment_modules(names).items()):
        file = Path(getattr(module, "__file__", None) or "")
        is_secret = any(fnmatch(file.name, secret) for secret in SECRETS)
        if file.suffix != ".py" or is_secret or file.stat().st_size > MAX_BYTES:
            continue
        package = f"{name}.__init__" if file.name == "__init__.py" else name
        yield file.name if name.endswith(".py") else f"{package.replace('.', '/')}.py", file
