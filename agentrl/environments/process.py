"""Client of a world that lives in a process of its own, where it may hang, die or leak.

The process is forked off one that has imported the world and done nothing else with it, so it costs
milliseconds, and what worlds share inside a process they do not share here.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from agentrl.callables import ROOT
from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.types import Task

GRACE_SECONDS = 1.0
"""What a world gets to close, before it is killed."""
LONGEST_LINE = 64 << 20
"""Bytes of what a world answers."""
FOLDERS = ROOT / ".environments"
"""Packages whose pins conflict with ours: a folder of its own for each name."""

_starting = threading.Lock()
_servers: dict[tuple[str, int], "_ForkServer"] = {}


class EnvironmentProcess:
    """A world in its process: see ``protocol.Environment``, whose methods are async here.

    What the world raises is raised here as a RuntimeError, and so is that it died.
    """

    def __init__(self, name: str, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]):
        self._name, (self._replies, self._requests) = name, streams
        self._process: int | None = None
        self._owes_answer = False

    @classmethod
    async def start(cls, name: str) -> "EnvironmentProcess":
        """Raises ValueError, in a sentence, where there is no such world."""
        ours, theirs = socket.socketpair()
        with theirs:
            _fork_server(name).fork(theirs)
        world = cls(name, await asyncio.open_connection(sock=ours, limit=LONGEST_LINE))
        try:
            world._process = await world._answer("start")
        except BaseException:
            await world.close()
            raise
        return world

    async def reset(self, task: Task, seed: int) -> Observation:
        return Observation(**await self._ask("reset", task=task, seed=seed))

    async def step(self, action: Action) -> Observation:
        plain = asdict(action) if isinstance(action, ToolCall) else action
        return Observation(**await self._ask("step", action=plain))

    async def tasks(self) -> tuple[list[Task], list[Task]] | None:
        """Its own rows, train and held out, where it has any."""
        return await self._ask("tasks")

    async def random_play(self, tasks: Sequence[Task], seed: int) -> list[Any]:
        """See ``random_play``: all of it there, since to ask takes longer than to play."""
        return await self._ask("random_play", tasks=tasks, seed=seed)

    async def close(self) -> None:
        """End the process and what it started; one that owes no answer may close first."""
        try:
            if not self._owes_answer:
                with suppress(RuntimeError, TimeoutError):
                    await asyncio.wait_for(self._ask("close"), GRACE_SECONDS)
        finally:
            self._requests.close()
            if self._process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process, signal.SIGKILL)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        line = json.dumps({"method": method, "arguments": arguments}, default=str)
        self._requests.write(line.encode() + b"\n")
        return await self._answer(method)

    async def _answer(self, method: str) -> Any:
        self._owes_answer = True
        try:
            reply = json.loads(await self._replies.readline() or "{}")
            self._owes_answer = False
        # One that died may have written half a line.
        except (OSError, ValueError):
            reply = {}
        if "returned" not in reply:
            cause = reply.get("raised", "its process died")
            raise RuntimeError(f"the environment {self._name}, asked to {method}: {cause}")
        return reply["returned"]


class _ForkServer:
    """The process that worlds of one name are forked off."""

    def __init__(self, name: str):
        """Raises ValueError, in a sentence, where there is no such world."""
        self._socket, theirs = socket.socketpair()
        own = FOLDERS / name.partition(":")[0]
        # The same sets iterate in the same order, whenever a world is played again.
        variables = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        variables["PYTHONPATH"] = os.pathsep.join([str(own), str(ROOT), *sys.path])
        program = [sys.executable, "-m", "agentrl.environments.fork_server"]
        with theirs:
            self._process = subprocess.Popen(
                [*program, name, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                # What worlds print is not the output of this command: it goes to stderr.
                stdout=2,
                pass_fds=[theirs.fileno()],
                env=variables,
                # An interrupt from the keyboard is not for it.
                process_group=0,
            )
        refused = self._socket.makefile().readline()
        if refused != "\n":
            self._process.wait()
            raise ValueError(refused.strip() or f"the environment {name} died while it was loaded")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, connection: socket.socket) -> None:
        """Start a world that is spoken to through the connection."""
        socket.send_fds(self._socket, [b"+"], [connection.fileno()])


def _fork_server(name: str) -> _ForkServer:
    """The one of a name, started anew where it has ended; a fork of this process has its own."""
    # One import at a time, however many episodes begin.
    with _starting:
        found = _servers.get((name, os.getpid()))
        if found is None or not found.is_alive:
            found = _servers[name, os.getpid()] = _ForkServer(name)
        return found
