"""Files of a run's records: two a step, which appear whole and never change.

They are written under hidden names and then renamed, the episodes last. Whoever reads goes by the
episodes files, and so never meets what a kill or a full disk left.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class StepFiles:
    """The files of a step's training, or of its evaluation, which comes after it."""

    step: int
    held_out: bool
    folder: Path

    def __getitem__(self, what: str) -> Path:
        """what: ``episodes`` or ``tokens``."""
        return self.folder / f"{'eval' if self.held_out else 'step'}-{self.step:05d}.{what}.parquet"

    def remove(self) -> None:
        # The episodes first: without them no reader looks for the tokens.
        for path in sorted(self.folder.glob(self["*"].name)):
            path.unlink()


def recorded(folder: Path) -> list[StepFiles]:
    """What has been recorded, as of now, in order."""
    return _steps(folder, "episodes")


def cut_back(folder: Path, last_step: int) -> None:
    """Remove the files of later steps; all where it is -1."""
    for files in _steps(folder):
        if files.step > last_step:
            files.remove()


def remove_leftovers(folder: Path) -> None:
    """What a writer that was killed had not finished."""
    for files in set(_steps(folder)).difference(recorded(folder)):
        files.remove()
    for path in folder.glob(".*.parquet"):
        path.unlink()


def _steps(folder: Path, what: str = r"\w+") -> list[StepFiles]:
    """Those that have a file of what is asked for, a pattern."""
    name = re.compile(rf"(step|eval)-(\d+)\.{what}\.parquet")
    names = os.listdir(folder) if folder.exists() else []
    found = map(name.fullmatch, names)
    return sorted({StepFiles(int(m[2]), m[1] == "eval", folder) for m in found if m})
