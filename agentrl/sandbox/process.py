"""Client of a sandbox worker: its process, started when it is first needed."""

import contextlib
import functools
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agentrl.sandbox.limits import Limits

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a worker may take to start, on a machine that has much else to do."""
GRACE_SECONDS = 10.0
"""How much longer than the code's own time its worker may take to answer."""
WARNING = (
    "The Python tool runs %s. Of the code that a model writes, this machine does NOT contain: %s. "
    "Train in a container without secrets, or allow user namespaces."
)

_ROOT = str(Path(__file__).parents[2])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);from agentrl.sandbox.worker import main; main()"
)
_survey = threading.Lock()


class Refused(RuntimeError):
    """This machine does not allow a worker of that kind."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What code printed, and what ended it, if it was not its own end."""

    output: str
    ended_by: str | None
    """The bound it went over: seconds, memory, processes, output."""
    signal: int | None


DIED = Outcome(output="", ended_by=None, signal=signal.SIGKILL)


class Sandbox:
    """A worker that runs one piece of code at a time. Used by one thread at a time."""

    def __init__(self, limits: Limits, preload: Sequence[str] = ()):
        """preload: modules that a worker imports once, so that no piece of code has to."""
        self._limits, self._preload = limits, preload
        self._process: subprocess.Popen | None = None

    def run(self, code: str, limits: Limits | None = None) -> Outcome:
        """Run code, in a new worker if the last one has died; limits: of its own."""
        limits = limits or self._limits
        if self._process is None or self._process.poll() is not None:
            self._process, _ = start(isolation(), self._preload)
        try:
            request = {"code": code, "limits": asdict(limits)}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return Outcome(**_read_line(self._process, limits.seconds + GRACE_SECONDS))
        except (OSError, ValueError):
            # The code has ended or stopped the worker.
            self.close()
            return DIED

    def close(self) -> None:
        """End the worker and all that runs in it."""
        if self._process is not None:
            _end(self._process)
            self._process = None


def isolation() -> str:
    """The kind of isolation that this machine can give, found out once; its gaps are said aloud."""
    with _survey:
        return _find_isolation()


@functools.cache
def _find_isolation() -> str:
    kind, how = "namespaces", "with gaps in its walls"
    try:
        worker, gaps = start(kind)
    except Refused as refusal:
        kind, how = "none", f"without namespaces ({refusal})"
        worker, gaps = start(kind)
    _end(worker)
    if gaps:
        log.warning(WARNING, how, "; ".join(gaps))
    return kind


def start(kind: str, preload: Sequence[str] = ()) -> tuple[subprocess.Popen, list[str]]:
    """Start a worker; return it and what it does not contain. Raises Refused by the machine."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-s", "-c", _PROGRAM, _ROOT, kind, str(os.getpid()), *preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Numerical libraries start a thread for every core otherwise, and sets of texts iterate in
        # another order in each worker.
        env={"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        cwd="/",
        # An interrupt from the keyboard is not for it. In a session of its own it would not get it
        # either, but there being nice says nothing: the kernel weighs sessions against each other.
        process_group=0,
    )
    try:
        first = _read_line(worker, START_SECONDS)
    except ValueError as error:
        _end(worker)
        raise RuntimeError("the Python tool's worker did not start") from error
    if "refused" in first:
        _end(worker)
        raise Refused(first["refused"])
    return worker, first["not_contained"]


def _end(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.wait()
    worker.stdout.close()
    # What it did not read is of no interest.
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.close()


def _read_line(worker: subprocess.Popen, seconds: float) -> dict:
    if not select.select([worker.stdout], [], [], seconds)[0]:
        raise ValueError("the worker does not answer")
    return json.loads(worker.stdout.readline())
