"""Recorder: writes records in a thread of its own, so that a step does not wait for them."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentrl.records.rows import Batch
from agentrl.records.scores import Scores
from agentrl.records.writer import Writer
from agentrl.types import Group, Sample

WAITING_BATCHES = 4
"""So many may wait to be written; then the step waits, too."""


class RecordsFailed(RuntimeError):
    """What was sampled cannot be written; in a sentence."""


class Recorder:
    """Writes a run's records. Where it cannot, whoever gives it more is told."""

    def __init__(self, folder: Path, *, writes: bool = True):
        """writes: of several ranks, one does."""
        self._folder, self._writes = folder, writes
        self._error: Exception | None = None
        self._waiting: queue.Queue[Batch | None] = queue.Queue(WAITING_BATCHES)
        self.cpu_seconds = 0.0
        """Of the thread, so far."""
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)
        if writes:
            self._thread.start()

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
        self._raise_if_failed()
        if self._writes:
            self._waiting.put(
                Batch(step=step, groups=groups, samples=samples, scores=scores, held_out=held_out)
            )

    @contextmanager
    def keeping(self, step: int, groups: Sequence[Group]) -> Iterator[None]:
        """Should what is done with the episodes fail, they are recorded all the same: they are
        what one wants to look at then."""
        try:
            yield
        except Exception:
            self.add(step, groups)
            raise

    def flush(self) -> None:
        """Return when all that was added is on the disk; raises RecordsFailed."""
        self._waiting.join()
        self._raise_if_failed()

    def close(self) -> None:
        """Write what waits, and end; raises RecordsFailed."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise RecordsFailed(
                f"records cannot be written to {self._folder}: {self._error}"
            ) from self._error

    def _work(self) -> None:
        writer = None
        while (batch := self._waiting.get()) is not None:
            try:
                # After a failure nothing is written any more, and nobody waits for it.
                if self._error is None:
                    writer = writer or Writer(self._folder)
                    writer.write(batch)
            except Exception as error:
                self._error = error
            finally:
                self.cpu_seconds = time.thread_time()
                self._waiting.task_done()
