"""Pool of workers: starts them, gives each its episodes, and takes what has ended."""

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
from agentrl.serving.sampling import EngineClient
from agentrl.types import CannotStart, Episode, Task
from agentrl.workers.connection import EngineEnd
from agentrl.workers.worker import Setting, work
from rollout import GRACE_SECONDS, kept

DECIDED = ("model", "sampling", "auxiliary_models")
"""Fields of a config that a run settles after its flags."""
END_SECONDS = 5.0
"""What a worker gets to end by itself."""
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

    name: str
    process: BaseProcess
    orders: Connection
    """What it is to begin, and the episodes that ended."""
    line: Connection
    end: EngineEnd | None = None
    running: dict[Hashable, Given] = field(default_factory=dict)


class WorkerPool:
    """As many workers as the config says, each with a connection to the engines."""

    def __init__(self, config: Config, folder: str | Path, source: Source):
        self._setting = Setting(
            source=source,
            decided={name: getattr(config, name) for name in DECIDED},
            folder=str(folder),
        )
        self._server, self._engines = config.server, {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["agentrl.workers.worker"])
        self._tokens_of_gone, self._numbers = 0, count()
        self.workers = [self._start(number) for number in range(config.workers)]

    def attach(self, engines: Mapping[str, EngineClient]) -> "WorkerPool":
        """Let them reach the engines. Raises CannotStart where one cannot load the experiment."""
        self._engines = engines
        for worker in self.workers:
            worker.end = EngineEnd(worker.line, engines)
        for worker in self.workers:
            try:
                said = worker.orders.recv()
            except EOFError:
                said = "it ended without a word"
            if said:
                self.close()
                raise CannotStart(f"{worker.name} cannot start ({said}): leave --workers out")
        return self

    @property
    def num_tokens(self) -> int:
        """Completion tokens that the trained model has sampled for them."""
        return self._tokens_of_gone + sum(worker.end.num_tokens for worker in self.workers)

    def run(self, config: Config) -> "GivenEpisodes":
        """Episodes that are to run in them."""
        return GivenEpisodes(config, self, next(self._numbers))

    def renew(self, worker: Worker) -> dict[Hashable, tuple[Given, str]]:
        """Another in the stead of one that died; what that had, with how it died."""
        worker.process.join()
        number = self.workers.index(worker)
        self.workers[number] = new = self._start(number)
        new.end = EngineEnd(new.line, self._engines)
        self._tokens_of_gone += worker.end.num_tokens
        cause = f"{worker.name}, in which it ran, ended with {worker.process.exitcode}"
        return {key: (given, cause) for key, given in worker.running.items()}

    def close(self) -> None:
        """End them, and wait for it."""
        for worker in self.workers:
            worker.orders.close()
            worker.line.close()
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
        return Worker(process.name, process, orders, line)


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
        free = min(len(self._todo), self._config.concurrent_episodes - self.num_running)
        orders: dict[int, list] = {}
        for _ in range(free):
            workers = self._pool.workers
            number = min(range(len(workers)), key=lambda n: len(workers[n].running))
            key, task, index, sampling = self._todo.popleft()
            deadline = time.monotonic() + self._config.episode_seconds + HUNG_SECONDS
            workers[number].running[key] = Given(task, index, deadline)
            orders.setdefault(number, []).append((key, task, index, sampling))
        for number, order in orders.items():
            # One that has died is found where its episodes are waited for.
            with suppress(OSError):
                self._pool.workers[number].orders.send(order)
        return bool(self.num_running)

    def end(self) -> dict[Any, Episode]:
        ended: dict[Hashable, Episode] = {}
        workers = {worker.orders: worker for worker in self._pool.workers}
        for ready in wait(list(workers), timeout=0.1):
            ended |= self._take(workers[ready])
        now = time.monotonic()
        for worker in self._pool.workers:
            if any(now > given.deadline for given in worker.running.values()):
                worker.process.kill()
        return ended

    def close(self) -> None:
        for worker in self._pool.workers:
            worker.running.clear()
            with suppress(OSError):
                worker.orders.send(None)

    def _take(self, worker: Worker) -> dict[Any, Episode]:
        try:
            said = worker.orders.recv()
        except (EOFError, OSError):
            lost = self._pool.renew(worker)
            said = [
                (key, failed(given.task, given.index, (), "error", cause))
                for key, (given, cause) in lost.items()
            ]
            return {key[1]: kept(episode, self._config) for key, episode in said}
        given = [(key, e, worker.running.pop(key, None)) for key, e in said or ()]
        # What was ended before its time is nobody's.
        return {
            key[1]: kept(replace(e, task=one.task), self._config) for key, e, one in given if one
        }
