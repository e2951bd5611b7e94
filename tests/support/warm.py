"""Runs of train.py that need not import: forked from a process that has imported already.

Importing torch, transformers and vLLM is more than half of a short run. From the fork on a run is
what it is when it is started afresh: it leads a session of its own, writes to what it was given,
and train.py, or the launcher, runs as ``__main__``. What it shares with its siblings is the seed of
Python's hashes: where that, or the start itself, is what a test is about, it starts its run afresh.

    python tests/support/warm.py train.py

listens on the socket that ``WARM`` names. Each connection brings a line of JSON, ``{"start":
arguments, "environment": {...}}``, and two files to write to; it is answered by a process id, and
by the exit status when there is one. Who hangs up before that ends the run. The launcher's ranks
come the same way: ``warm_rank.py`` stands for each in the launcher's eyes.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = next(p for p in Path(__file__).parents if (p / "train.py").exists())
RANK = Path(__file__).with_name("warm_rank.py")
LAUNCHER = "accelerate"
"""In the place of train.py, the first of the arguments."""


class WarmProcess:
    """A forked run; with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, arguments: Sequence[str], output: IO, environment: Mapping[str, str]):
        """arguments: ``train.py`` or ``accelerate``, and its flags."""
        request = {"start": [*arguments], "environment": {**environment, "WARM": _address()}}
        self._connection = _connect(_address())
        socket.send_fds(self._connection, [b" "], [output.fileno(), output.fileno()])
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._connection.makefile()
        self.pid, self.returncode = int(self._answers.readline()), None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode

    def wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("train.py", seconds)
            time.sleep(0.02)
        return self.returncode


def _connect(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    # A name that is no file's.
    connection.connect(f"\0{address}")
    return connection


@cache
def _address() -> str:
    """Of a server that ends with the process that asks: its input does."""
    address = f"warm-{os.getpid()}"
    server = subprocess.Popen(
        # As with a run that is started afresh, the second word says what it is.
        [sys.executable, __file__, "train.py"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "WARM": address},
        start_new_session=True,
    )
    _servers.append(server)
    assert server.stdout.readline(), "the server of warm runs did not start"
    return address


_servers: list[subprocess.Popen] = []
"""Kept, as their input ends with them."""


def _import_what_a_run_does() -> None:
    sys.path[0] = str(ROOT)
    # Else the allocator that comes with pyarrow starts a thread.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    import accelerate.commands.launch  # noqa: F401
    import torch.distributed.run  # noqa: F401
    import vllm.v1.engine.llm_engine  # noqa: F401

    import train  # noqa: F401

    # What is shared is not looked through, which would copy it.
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not survive the fork"


def _serve() -> list[str]:
    """Start what is asked for, until the input ends; a child returns, with its arguments."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{os.environ['WARM']}")
    listener.listen()
    print("listening", flush=True)
    running: dict[socket.socket, int] = {}
    while True:
        ready, _, _ = select.select([listener, sys.stdin, *running], [], [], 0.02)
        if sys.stdin in ready:
            sys.exit()
        for connection, pid in [*running.items()]:
            if connection in ready:
                # It was hung up: a request is all that a client says.
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0 if connection in ready else os.WNOHANG)
            if ended:
                del running[connection]
                _answer(connection, os.waitstatus_to_exitcode(status))
                connection.close()
        if listener in ready:
            connection, _ = listener.accept()
            request, files = _read(connection)
            if (pid := os.fork()) == 0:
                for inherited in (listener, connection, *running):
                    inherited.close()
                _become(files, request["environment"])
                return request["start"]
            for file in files:
                os.close(file)
            running[connection] = pid
            _answer(connection, pid)


def _read(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    _, files, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile() as lines:
        return json.loads(lines.readline()), files


def _answer(connection: socket.socket, number: int) -> None:
    with suppress(OSError):
        connection.sendall(b"%d\n" % number)


def _become(files: list[int], environment: dict[str, str]) -> None:
    os.setsid()
    for number, source in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
        os.dup2(source, number)
    os.environ.clear()
    os.environ.update(environment)
    if "RANKS" in os.environ and "RANK" in os.environ:
        # The launcher's process ids are of those that stand for them.
        Path(os.environ["RANKS"], os.environ["RANK"]).write_text(str(os.getpid()))


def _run(arguments: list[str]) -> int:
    """As ``python train.py`` does, or ``accelerate launch``, up to the exit status."""
    program, *flags = arguments
    sys.argv = [program, *flags]
    try:
        if program == LAUNCHER:
            sys.modules["accelerate.commands.launch"].main()
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 1 if isinstance(end.code, str) else end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> None:
    """As an interpreter ends, but for taking apart, object by object, what the siblings share."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _import_what_a_run_does()
    # What comes after this is a child's.
    _end(_run(_serve()))
