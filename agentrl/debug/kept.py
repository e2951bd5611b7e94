"""Records of episodes that were run without training, in a folder that opens like a run's."""

import shlex
from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from agentrl.cli import to_json
from agentrl.config import Config
from agentrl.records.writer import Writer
from agentrl.runs.progress import Display
from agentrl.runs.run import Run
from agentrl.types import Group


class KeptEpisodes:
    """Where a command keeps its episodes; the folder is made with the first of them."""

    def __init__(self, config: Config, flags: Namespace, tokenizer: Any, display: Display):
        """flags: ``exp``, and ``checkpoint`` where one was named."""
        self._config, self._flags = config, flags
        self._tokenizer, self._display = tokenizer, display
        self._num_added = 0

    def add(self, groups: Sequence[Group]) -> None:
        """Record the episodes as one evaluation, and say how to look at their tokens.

        Raises OSError where they cannot be written.
        """
        self._writer.write(self._num_added, groups, held_out=True)
        self._num_added += 1
        folder = shlex.quote(str(self._run.folder))
        self._display.line(f"every token  python -m agentrl.viewer {folder}")

    @cached_property
    def _run(self) -> Run:
        config, flags = self._config, self._flags
        model = flags.checkpoint or config.model.path or "made"
        run = Run.create(config.runs, flags.exp, to_json(config), model, kind="untrained")
        self._tokenizer.save_pretrained(run.tokenizer)
        return run

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self._run.records)
