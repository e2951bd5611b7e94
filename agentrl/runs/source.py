"""The source that a run was started from, as one small zip in its folder.

``repository/`` holds the checkout as it was, changes that were not committed included, and
``experiment/`` what was imported from elsewhere: an experiment's own file and its neighbours. What
is installed is not in it; ``requirements.txt`` is. To run it again, without git:

    unzip source.zip -d again && cd again/repository
    python train.py --exp ../experiment/mine.py     # config.json has the whole command
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAX_BYTES = 2**20
"""A larger file is data."""
NOT_SOURCE = {".png", ".jpg", ".gif", ".svg", ".npz", ".safetensors", ".pyc"}
SECRETS = (".env*", "*.pem", "*.key", ".netrc")
"""They lie beside source, and a run's folder is passed on."""
NO_FOLDER_OF_OURS = {"__pycache__", "node_modules", "runs", "wandb"}


def save(path: Path) -> None:
    """Write the zip: what lies in the repository, and what this process has imported besides."""
    # A file may be dated before 1980, and be packed all the same.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in _of_repository():
            archive.write(file, Path("repository", file.relative_to(ROOT)))
        for name, file in sorted(set(_imported_from_elsewhere())):
            place = Path("experiment", name)
            # Two files of one name can only have been given by their paths.
            taken = str(place) in archive.namelist()
            archive.write(file, Path("experiment", file.parent.name, name) if taken else place)


def _of_repository() -> Iterator[Path]:
    for file in sorted(_known_to_git() or _below(ROOT)):
        # One that git tracks may have been deleted.
        if file.is_file() and _is_source(file) and file.stat().st_size <= MAX_BYTES:
            yield file


def _is_source(file: Path) -> bool:
    return file.suffix not in NOT_SOURCE and not any(map(file.match, SECRETS))


def _known_to_git() -> list[Path]:
    """Files that it tracks or does not ignore; none where this is no checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    # There is no git.
    except OSError:
        return []
    return [ROOT / name for name in os.fsdecode(listed.stdout).split("\0") if name]


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            if not path.name.startswith(".") and path.name not in NO_FOLDER_OF_OURS:
                yield from _below(path)
        else:
            yield path


def _imported_from_elsewhere() -> Iterator[tuple[str, Path]]:
    """Each with the name under which Python finds it again, from the experiment's folder."""
    installed = [ROOT, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
    known = tuple(f"{place}/" for folder in installed for place in (folder, Path(folder).resolve()))
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        # Most end here, without a look at the disk.
        if not path.endswith(".py") or path.startswith(known):
            continue
        file = Path(path).resolve()
        if str(file).startswith(known) or not file.is_file():
            continue
        # An experiment that was given by its path is known by it.
        if name.endswith(".py"):
            yield file.name, file
        elif name not in ("__main__", "__mp_main__"):
            package = f"{name}.__init__" if file.name == "__init__.py" else name
            yield f"{package.replace('.', '/')}.py", file
