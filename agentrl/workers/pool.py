"""Pool of workers: starts them, gives each its episodes, and takes what has ended."""

import atexit
import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from agentrl.agents.episode import failed
from agentrl.cli import Source
from agentrl.config import Config
from agentrl.serving.connection import EngineEnd
from agentrl.serving.sampling import EngineClient
from agentrl.types import CannotStart, Episode, Task
from agentrl.workers.worker import Setting, work
from rollout import GRACE_SECONDS, kept

log = logging.getLogger(__name__)

DECIDED = ("model", "sampling", "auxiliary_models")
"""Fields of a config that a run settles after its flags."""
END_SECONDS = 5.0
"""What they get to end by themselves."""
HUNG_SECONDS = 3 * GRACE_SECONDS
"""How much longer than an episode's time a worker may say nothing of it."""


class Given(NamedTuple):
    """An episode that a worker was given."""

    task: Task
    index: int
    deadline: float


@dataclass(eq=False)
class Worker:
    """One process, as the pool knows it."""

    process: BaseProcess
    orders: Connection
    """What it is to begin, and the episodes that ended."""
    line: Connection
    end: EngineEnd | None = None
    is_ready: bool = False
    """Whether it has loaded the experiment."""
    running: dict[Hashable, Given] = field(default_factory=dict)


class WorkerPool:
    """As many workers as the config says, each with a connection to the engines."""

    def __init__(self, config: Config, folder: str | Path, first: str | Path, source: Source):
        """folder, first: as ``serving.start`` takes them."""
        self._setting = Setting(
            source=source,
            decided={name: getattr(config, name) for name in DECIDED},
            folder=str(folder),
            first=str(first),
        )
        self._server, self._engines = config.server, {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["agentrl.workers.worker"])
        self._tokens_of_gone, self._numbers = 0, count()
        # However the process ends: it would wait for them.
        atexit.register(self.close)
        self.workers = [self._start(number) for number in range(config.workers)]

    def attach(self, engines: Mapping[str, EngineClient]) -> "WorkerPool":
        """Let them reach the engines. Raises CannotStart where one cannot load the experiment."""
        self._engines = engines
        for worker in self.workers:
            worker.end = EngineEnd(worker.line, engines)
        try:
            while not all(worker.is_ready for worker in self.workers):
                for worker in self.workers:
                    self.receive(worker)
        except CannotStart:
            self.close()
            raise
        return self

    @property
    def num_tokens(self) -> int:
        """Completion tokens that the trained model has sampled for them."""
        return self._tokens_of_gone + sum(worker.end.num_tokens for worker in self.workers)

    def run(self, config: Config) -> "GivenEpisodes":
        """Episodes that are to run in them."""
        return GivenEpisodes(config, self, next(self._numbers))

    def receive(self, worker: Worker) -> list[tuple[Hashable, Episode]]:
        """What it says next: the episodes that ended, and those that ended with it; waits for it.

        Raises CannotStart where it could not load the experiment.
        """
        try:
            said = worker.orders.recv()
        except (EOFError, OSError):
            return self._renew(worker)
        if isinstance(said, str):
            if said:
                raise CannotStart(f"{worker.process.name} cannot load the experiment: {said}")
            worker.is_ready = True
            return []
        # What was ended before its time is nobody's.
        known = [(key, episode, worker.running.pop(key, None)) for key, episode in said]
        return [(key, replace(episode, task=one.task)) for key, episode, one in known if one]

    def _renew(self, worker: Worker) -> list[tuple[Hashable, Episode]]:
        """Another in the stead of one that died, whose episodes have failed."""
        worker.process.join()
        if not worker.is_ready:
            raise CannotStart(f"{worker.process.name} died as it loaded the experiment")
        number = self.workers.index(worker)
        self.workers[number] = new = self._start(number)
        new.end = EngineEnd(new.line, self._engines)
        self._tokens_of_gone += worker.end.num_tokens
        cause = f"{worker.process.name}, in which it ran, ended with {worker.process.exitcode}"
        log.warning("%s: another takes its part", cause)
        return [
            (key, failed(one.task, one.index, (), "error", cause))
            for key, one in worker.running.items()
        ]

    def close(self) -> None:
        """End them, and wait for it."""
        atexit.unregister(self.close)
        for worker in self.workers:
            # Each ends with this, but for one that does not listen yet.
            worker.orders.close()
            if not worker.is_ready:
                worker.process.kill()
        deadline = time.monotonic() + END_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    def _start(self, number: int) -> Worker:
        orders, their_orders = self._context.Pipe()
        line, their_line = self._context.Pipe()
        port = self._server.port and self._server.port + number
        decided = {**self._setting.decided, "server": replace(self._server, port=port)}
        setting = replace(self._setting, decided=decided)
        process = self._context.Process(
            target=work, args=(setting, their_orders, their_line), name=f"worker {number}"
        )
        process.start()
        their_orders.close()
        their_line.close()
        return Worker(process, orders, line)


class GivenEpisodes:
    """``rollout.RunningEpisodes`` in workers."""

    def __init__(self, config: Config, pool: WorkerPool, number: int):
        self._config, self._pool, self._number = config, pool, number
        self._todo: deque[tuple[Hashable, Task, int, dict]] = deque()

    @property
    def num_running(self) -> int:
        return sum(len(worker.running) for worker in self._pool.workers)

    @property
    def num_left(self) -> int:
        return self.num_running + len(self._todo)

    def add(self, key: Hashable, task: Task, index: int, **sampling: Any) -> None:
        self._todo.append(((self._number, key), task, index, sampling))

    def start(self) -> bool:
        """Give each worker as many as the others have."""
        ready = [worker for worker in self._pool.workers if worker.is_ready]
        orders: dict[Worker, list] = {worker: [] for worker in ready}
        free = self._config.concurrent_episodes - self.num_running
        for _ in range(min(free, len(self._todo)) if ready else 0):
            worker = min(ready, key=lambda one: len(one.running))
            key, task, index, sampling = self._todo.popleft()
            deadline = time.monotonic() + self._config.episode_seconds + HUNG_SECONDS
            worker.running[key] = Given(task, index, deadline)
            orders[worker].append((key, task, index, sampling))
        for worker, order in orders.items():
            # One that has died is found where its episodes are waited for.
            with suppress(OSError):
                if order:
                    worker.orders.send(order)
        return bool(self.num_left)

    def end(self) -> dict[Any, Episode]:
        workers = {worker.orders: worker for worker in self._pool.workers}
        ended = [one for r in wait(list(workers), 0.1) for one in self._pool.receive(workers[r])]
        now = time.monotonic()
        for worker in self._pool.workers:
            if any(now > given.deadline for given in worker.running.values()):
                worker.process.kill()
        return {key[1]: kept(episode, self._config) for key, episode in ended}

    def close(self) -> None:
        for worker in self._pool.workers:
            worker.running.clear()
            with suppress(OSError):
                worker.orders.send(None)
