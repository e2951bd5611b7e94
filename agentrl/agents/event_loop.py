"""An event loop that takes with it whatever was left running on it.

``asyncio.run`` waits at its end for tasks that swallow their cancellation and for the threads of
``asyncio.to_thread``, for as long as they like. Here each gets PATIENCE seconds, then:

    tasks, async generators     are dropped; without a loop they never run again
    asyncio's subprocesses      are killed, as soon as the loop ends
    threads of to_thread        are interrupted; see ``interrupt`` for those that cannot be
"""

import asyncio
import threading
import time
from collections.abc import Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor, thread
from contextlib import suppress
from typing import Any

from agentrl.agents.interrupt import finish, interrupt

PATIENCE = 0.5
"""Seconds that each kind of what is left gets to end."""


class OutOfTime(Exception):
    """The episode's time was over before its work was."""


class EpisodeEventLoop(asyncio.SelectorEventLoop):
    """``with EpisodeEventLoop() as loop``: this thread's event loop."""

    def __init__(self):
        super().__init__()
        self._programs: list[asyncio.SubprocessTransport] = []
        self._threads: list[threading.Thread] = []
        self._executor = ThreadPoolExecutor(initializer=_note, initargs=(self._threads,))
        self.set_default_executor(self._executor)

    def __enter__(self) -> "EpisodeEventLoop":
        asyncio.set_event_loop(self)
        return self

    def __exit__(self, *_: Any) -> None:
        for end in (
            self._end_tasks,
            self._end_generators,
            self._end_programs,
            self._end_threads,
            self._drop_tasks,
            # A loop that is closed by half would keep its files open.
            finish,
            self.close,
        ):
            # Where the workflow's own cleaning up goes wrong or is interrupted, the rest goes on.
            with suppress(BaseException):
                end()
        asyncio.set_event_loop(None)

    def run_within(self, seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
        """What the work returns; raises what it raises, or OutOfTime where it takes longer."""
        deadline, task = time.monotonic() + seconds, self.create_task(work)
        self._wait({task}, seconds)
        # Nobody is left who could do anything about what goes wrong in other tasks from here on.
        self.set_exception_handler(lambda loop, context: None)
        # What blocked the loop may have come to its end after the deadline.
        if not task.done() or time.monotonic() > deadline:
            raise OutOfTime
        return task.result()

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(await super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted(await super().subprocess_shell(*args, **kwargs))

    def _noted(self, started: tuple[asyncio.SubprocessTransport, Any]) -> Any:
        self._programs.append(started[0])
        return started

    def _wait(self, tasks: Collection[asyncio.Task], seconds: float) -> None:
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=seconds))

    def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        self._wait(tasks, PATIENCE)

    def _end_generators(self) -> None:
        self._wait({self.create_task(self.shutdown_asyncgens())}, PATIENCE)

    def _end_programs(self) -> None:
        for program in self._programs:
            program.close()
        if self._programs:
            self._wait({self.create_task(self._all_reaped())}, PATIENCE)

    async def _all_reaped(self) -> None:
        while any(program.get_returncode() is None for program in self._programs):
            await asyncio.sleep(0.001)

    def _end_threads(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        _join(self._threads, PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while (left := _alive(self._threads)) and time.monotonic() < deadline:
            for one in left:
                interrupt(one)
            _join(left, PATIENCE / 5)
        for one in left:
            # Python would wait for it when the process ends.
            thread._threads_queues.pop(one, None)

    def _drop_tasks(self) -> None:
        for task in asyncio.all_tasks(self):
            with suppress(BaseException):
                task.get_coro().close()


def _note(threads: list[threading.Thread]) -> None:
    threads.append(threading.current_thread())


def _join(threads: Collection[threading.Thread], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for one in threads:
        one.join(max(0.0, deadline - time.monotonic()))


def _alive(threads: Collection[threading.Thread]) -> list[threading.Thread]:
    return [one for one in threads if one.is_alive()]
