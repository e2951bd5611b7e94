"""Runs of train.py that need not import: forked from a process that has imported already.

Importing torch, transformers and vLLM is more than half of a short run. From the fork on a run is
what it is when it is started afresh: it leads a session of its own, its output is a file, and
train.py runs as ``__main__``. What it shares with its siblings is the seed of Python's hashes:
where that, or the start itself, is what a test is about, it starts its run afresh.

    python tests/support/warm.py train.py

reads requests, a line of JSON each: ``{"start": flags, "log": file, "environment": {...}}``, which
is answered by a process id, and ``{"poll": pid}``, by its exit status, or null while it runs.
"""

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = next(p for p in Path(__file__).parents if (p / "train.py").exists())


class WarmProcess:
    """A run of train.py, forked; with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, flags: Sequence[str], log: Path, environment: Mapping[str, str]):
        request = {"start": [*flags], "log": str(log), "environment": {**environment}}
        self.pid: int = _ask(request)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, seconds: float) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("train.py", seconds)
            time.sleep(0.02)
        return self.returncode


@cache
def _server() -> subprocess.Popen:
    """Ends with the process that asks: its input does."""
    return subprocess.Popen(
        # As with a run that is started afresh, the second word says what it is.
        [sys.executable, __file__, "train.py"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _import_what_a_run_does() -> None:
    sys.path[0] = str(ROOT)
    # Else the allocator that comes with pyarrow starts a thread.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    import vllm.v1.engine.llm_engine  # noqa: F401

    import train  # noqa: F401

    # What is shared is not looked through, which would copy it.
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not survive the fork"


def _serve() -> list[str]:
    """Answer until a request is to start: then a child returns, with its flags."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            _become(Path(request["log"]), request["environment"])
            return request["start"]
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, source in enumerate([os.open(os.devnull, os.O_RDONLY), output, output]):
        os.dup2(source, number)
    os.environ.update(environment)


def _run(flags: list[str]) -> int:
    """As ``python train.py`` does, up to the exit status."""
    sys.argv = ["train.py", *flags]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
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
