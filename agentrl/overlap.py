"""Overlap: training on a group as soon as it is complete, while the engine draws the others.

On-policy, and the gradient is that of a whole batch, up to the order of summation: a sum over
chunks, divided once (arXiv 2511.18871). It is for algorithms whose credit needs a group alone
and that make one optimizer step a batch. Ranks take the same chunk at the same time: what any of
them has completed since the last. Trees are built chunk by chunk, so what groups share with one
another, such as a long system prompt, is computed once a chunk.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import rollout
from agentrl.agents.contract import InferencePool
from agentrl.config import Config
from agentrl.learning.ranks import Ranks
from agentrl.runs.session import Session
from agentrl.types import Chunk, Group, Task


class Abandoned(Exception):
    """Nobody waits any more for what is drawn."""


def rollouts(
    serving: InferencePool,
    batches: Sequence[list[Task]],
    config: Config,
    ranks: Ranks,
    run: Session,
    first: int,
) -> Iterator[Iterator[Chunk]]:
    """The chunks of each step from ``first`` on; without overlap all of it in one."""
    if not config.overlap:
        return rollout.rollouts(serving, batches, config, ranks, run, first)
    steps = range(first, len(batches))
    return (chunks(batches[step], serving, config, ranks, run, step + 1) for step in steps)


def chunks(
    tasks: list[Task],
    serving: InferencePool,
    config: Config,
    ranks: Ranks,
    run: Session,
    step: int,
) -> Iterator[Chunk]:
    """A step's groups, as they are complete; the last chunk when all are found to be trainable."""
    running = _Rollout(ranks.shard(tasks), serving, config, ranks, step)
    done: list[Group] = []
    try:
        while len(done) < len(tasks):
            fresh = running.take(run, ranks)
            done += fresh
            is_last = len(done) == len(tasks)
            if is_last:
                run.check_batch(step, done)
            yield Chunk(fresh, is_first=len(done) == len(fresh), is_last=is_last)
    finally:
        running.close()


class _Rollout:
    """A step's episodes, run from a thread of its own."""

    def __init__(
        self, tasks: list[Task], serving: InferencePool, config: Config, ranks: Ranks, step: int
    ):
        self._complete: queue.SimpleQueue[Group | BaseException] = queue.SimpleQueue()
        self._is_over, self._told = threading.Event(), (0.0, "")
        self._check = ranks.check
        options = {"step": step, "group_size": config.group_size, "report": self._tell}
        self._given = (tasks, config, serving), options | {"check": self._go_on}
        self._thread = threading.Thread(target=self._run, name="episodes", daemon=True)
        self._thread.start()

    def take(self, run: Session, ranks: Ranks) -> list[Group]:
        """The groups that are complete and were not taken, all ranks', at least one."""
        while not (found := ranks.gather(self._own(), "groups")):
            run.report(*self._told)
        return found

    def _own(self) -> list[Group]:
        """This rank's, after a moment's wait; raises what ended its episodes."""
        found: list[Group | BaseException] = []
        with suppress(queue.Empty):
            found.append(self._complete.get(timeout=0.1))
            while True:
                found.append(self._complete.get_nowait())
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return found

    def close(self) -> None:
        """End what still runs."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        given, options = self._given
        try:
            rollout.run_groups(*given, **options, take=self._complete.put)
        except Abandoned:
            pass
        except BaseException as error:
            self._complete.put(error)

    def _tell(self, share: float, note: str | None) -> None:
        self._told = share, note

    def _go_on(self) -> None:
        if self._is_over.is_set():
            raise Abandoned
        self._check()
