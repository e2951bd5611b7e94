"""The Python tool: runs a model's code in a separate process and returns what it printed."""

import asyncio
import json
import queue
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

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

GRACE_SECONDS = 2.0
"""How much longer than the code's own time its worker may take to answer."""

NOTHING_PRINTED = "(nothing was printed: use print)"


class PythonTool:
    """A pool of workers that run code, each call in a fresh process with limits.

    What goes wrong in the code comes back as a sentence for the model to read, never as an
    exception. Safe to call from any thread.
    """

    def __init__(
        self,
        seconds: float = 5.0,
        memory_mib: int = 1024,
        max_characters: int = 2000,
        workers: int = 8,
    ):
        self._limits = {
            "seconds": seconds,
            "memory_bytes": memory_mib << 20,
            "output_bytes": 4 * max_characters,
        }
        self._max_characters = max_characters
        self._idle: queue.LifoQueue[subprocess.Popen | None] = queue.LifoQueue()
        for _ in range(workers):
            # Started when first needed.
            self._idle.put(None)

    async def __call__(self, arguments: str) -> str:
        """Run the code in a tool call's JSON arguments and return the tool message."""
        try:
            code = json.loads(arguments)["code"]
        except (ValueError, KeyError, TypeError):
            return 'The arguments must be JSON like {"code": "print(1 + 2)"}.'
        return await asyncio.to_thread(self.run, str(code))

    def run(self, code: str) -> str:
        """Run code and return what it printed, or a sentence about why there is nothing."""
        worker = self._idle.get()
        try:
            if worker is None or worker.poll() is not None:
                worker = _start_worker()
            return self._message(**self._ask(worker, code))
        except (OSError, ValueError):
            # The code reached out of its process and ended or stopped the worker.
            worker.kill()
            worker.wait()
            return self._message(output="", timed_out=False, signal=signal.SIGKILL)
        finally:
            self._idle.put(worker)

    def _ask(self, worker: subprocess.Popen, code: str) -> dict:
        worker.stdin.write(json.dumps({"code": code, **self._limits}) + "\n")
        worker.stdin.flush()
        if not select.select([worker.stdout], [], [], self._limits["seconds"] + GRACE_SECONDS)[0]:
            raise ValueError("the worker does not answer")
        return json.loads(worker.stdout.readline())

    def _message(self, output: str, timed_out: bool, signal: int | None) -> str:
        text = output.rstrip()
        if len(text) > self._max_characters:
            return f"{text[: self._max_characters]}\n[cut after {self._max_characters} characters]"
        if timed_out:
            return f"{text}\nThe code ran longer than {self._limits['seconds']:g} s.".lstrip()
        if signal is not None:
            return f"{text}\nThe code was ended by signal {signal}.".lstrip()
        return text or NOTHING_PRINTED


def _start_worker() -> subprocess.Popen:
    return subprocess.Popen(
        # It ends by itself when its stdin closes, so also when this process is killed.
        [sys.executable, "-I", str(Path(__file__).with_name("python_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={},
        cwd=tempfile.gettempdir(),
    )
