"""Tools, and the Python tool: it runs a model's code in a sandbox and returns what it printed."""

import asyncio
import json
import queue
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agentrl.sandbox.limits import PROCESSES, Limits
from agentrl.sandbox.process import Outcome, Sandbox

PYTHON_TOOL = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run Python code and return what it prints.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
        },
    },
}
"""The tool in OpenAI's form."""


@dataclass(frozen=True)
class Tool:
    """A tool for a model to call, and what runs it."""

    schema: dict[str, Any]
    """In OpenAI's form."""
    run: Callable[[str], Awaitable[str]]
    """From a call's JSON arguments to the tool message."""

    @property
    def name(self) -> str:
        return self.schema["function"]["name"]


@dataclass(frozen=True, kw_only=True)
class ChatSetting:
    """What a model is given when a person talks to it: ``talk`` in an experiment's file.

    An agent's own prompt and tools are in its code, whatever framework that is written in.
    """

    system: str = ""
    tools: tuple[Tool, ...] = ()


NOTHING_PRINTED = "(nothing was printed: use print)"


class PythonTool:
    """A few sandboxes that run code, each call in a fresh process; see ``agentrl.sandbox``.

    What goes wrong in the code comes back as a sentence for the model to read, never as an
    exception. Safe to call from any thread. Calls wait for a free sandbox in the order they came,
    and their ``seconds`` begin after that; one that is cancelled while it waits never runs.
    """

    def __init__(
        self,
        seconds: float = 5.0,
        memory_mib: int = 1024,
        max_characters: int = 2000,
        workers: int = 8,
        preload: Sequence[str] = (),
    ):
        self._limits = Limits(
            seconds=seconds, memory_mib=memory_mib, output_bytes=4 * max_characters
        )
        self._max_characters = max_characters
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="python-tool")
        self._idle: queue.LifoQueue[Sandbox] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(Sandbox(self._limits, preload))

    async def __call__(self, arguments: str) -> str:
        """Run the code in a tool call's JSON arguments and return the tool message."""
        try:
            code = json.loads(arguments)["code"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return 'The arguments must be JSON like {"code": "print(1 + 2)"}.'
        return self._message(await self.outcome(str(code)))

    def run(self, code: str) -> str:
        """Run code and return what it printed, or a sentence about why there is nothing."""
        return self._message(self._threads.submit(self._run, code).result())

    async def outcome(self, code: str, limits: Limits | None = None) -> Outcome:
        """Run code and return all that it printed and how it ended; limits: of its own."""
        return await asyncio.wrap_future(self._threads.submit(self._run, code, limits))

    def _run(self, code: str, limits: Limits | None = None) -> Outcome:
        # As many as there are threads, so that one is always free.
        sandbox = self._idle.get_nowait()
        try:
            return sandbox.run(code, limits)
        finally:
            self._idle.put(sandbox)

    def _message(self, outcome: Outcome) -> str:
        text = outcome.output.rstrip()
        if len(text) > self._max_characters:
            return f"{text[: self._max_characters]}\n[cut after {self._max_characters} characters]"
        if outcome.ended_by in self._reasons:
            return f"{text}\n{self._reasons[outcome.ended_by]}".lstrip()
        if outcome.signal is not None:
            return f"{text}\nThe code was ended by signal {outcome.signal}.".lstrip()
        return text or NOTHING_PRINTED

    @property
    def _reasons(self) -> dict[str, str]:
        return {
            "seconds": f"The code ran longer than {self._limits.seconds:g} s.",
            "memory": f"The code used more than {self._limits.memory_mib} MiB of memory.",
            "processes": f"The code had more than {PROCESSES} processes and threads.",
        }
