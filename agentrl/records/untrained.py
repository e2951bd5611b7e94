"""Records of episodes that nothing is trained on, in a folder that opens like a run's."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.records.files import recorded
from agentrl.records.rows import Batch
from agentrl.records.writer import Writer
from agentrl.types import Group


class UntrainedRecords:
    """A folder of episodes, added as evaluations: the first is of step 0, the next of step 1."""

    def __init__(self, folder: Path, description: Mapping[str, Any], tokenizer: Any):
        """A new folder, or one to add to.

        description: what its config.json says: ``experiment``, ``config``. tokenizer: has
        ``save_pretrained``. Raises ValueError where the folder has records of an earlier form.
        """
        self._folder, self._writer = folder, Writer(folder / "records")
        (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")
        tokenizer.save_pretrained(folder / "tokenizer")

    def add(self, groups: Sequence[Group]) -> None:
        """Written when this returns; raises OSError where it cannot be."""
        steps = [files.step for files in recorded(self._folder / "records")]
        self._writer.write(Batch(step=max(steps, default=-1) + 1, groups=groups, held_out=True))

    @property
    def command(self) -> str:
        """What shows them in a browser."""
        return f"python -m agentrl.viewer {shlex.quote(str(self._folder))}"
