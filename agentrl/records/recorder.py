"""Recorder: writes records in a thread of its own, so that a step does not wait for them."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from agentrl.records.scores import Scores
from agentrl.records.writer import Writer
from agentrl.types import Group, Sample

WAITING_STEPS = 4
"""So many may wait to be written; then the step waits, too."""


class RecordsFailed(RuntimeError):
    """What was sampled cannot be written; in a sentence."""


class Recorder:
    """Writes a run's records. Where it cannot, whoever gives it more is told."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """writes: of several ranks, one does."""
        self._folder, self._writes = folder, writes
        self._thread = ThreadPoolExecutor(1, "records")
        self._waiting: deque[Future] = deque()

    def add(
        self,
        step: int,
        groups: Sequence[Group],
        samples: Sequence[Sample] = (),
        scores: Sequence[Scores] = (),
        *,
        held_out: bool = False,
    ) -> None:
        """Record a step's episodes; what was recorded of them before is replaced.

        samples, scores: what was in the loss. held_out: these are the evaluation's.
        Raises RecordsFailed where what was added earlier could not be written.
        """
        self._settle(WAITING_STEPS)
        if self._writes:
            self._waiting.append(
                self._thread.submit(
                    # The writer is made in the thread, too: what it raises is told like the rest.
                    lambda: self._writer.write(step, groups, samples, scores, held_out=held_out)
                )
            )

    def flush(self) -> None:
        """Return when all that was added is on the disk; raises RecordsFailed."""
        self._settle(0)

    def close(self) -> None:
        """Write what waits, and end; raises RecordsFailed."""
        self._thread.shutdown()
        self._settle(0)

    def _settle(self, most: int) -> None:
        """Return when so many steps wait at the most, and none has failed that does not."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0].done()):
            try:
                self._waiting[0].result()
            except Exception as error:
                raise RecordsFailed(
                    f"records cannot be written to {self._folder}: {error}"
                ) from error
            self._waiting.popleft()

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self._folder)
