"""Isolation of the code: Linux namespaces; or, where the machine has none, none and a warning."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable

from agentrl.sandbox import limits, linux, namespaces, rootfs, seccomp
from agentrl.sandbox.limits import Limits, Watch

NO_COUNT = "the number of processes, other than by looking"
NO_WATCH = "the memory and the number of its processes together"
IN_THE_OPEN = [
    "reading and writing whatever this user may",
    "sockets of other programs on this machine",
    "signals to this user's processes, this one among them",
    NO_COUNT,
]


class Namespaces:
    """Namespaces, a room of its own, no privileges, a filter of kernel calls.

    The worker is the first process of its namespace, so that whatever the code leaves behind is
    the worker's child in the end, and none can signal it.
    """

    def __init__(self):
        """Raises OSError where the machine forbids it; this process is of no use then."""
        self.watch = _or_none(Watch)
        namespaces.enter()
        rootfs.build()
        # What is imported here, once for all code, may want to write into its home.
        rootfs.empty_scratch()
        os.environ["HOME"] = rootfs.SCRATCH
        gaps = {NO_COUNT: _succeeds(_fork_beyond_the_limit), NO_WATCH: self.watch is None}
        self.not_contained = [gap for gap, is_open in gaps.items() if is_open]

    def prepare(self) -> None:
        """The room's scratch folder is made by the process that needs it."""

    def enter(self, bounds: Limits, code: str) -> str:
        """Shut this process in, for good; return the file in which the code lies there."""
        # A signal to one's own group would reach the worker's starter, which is outside.
        os.setpgid(0, 0)
        rootfs.empty_scratch()
        rootfs.write_script(code)
        limits.limit_process(bounds, count_processes=True)
        namespaces.become_nobody()
        seccomp.forbid()
        return rootfs.SCRIPT

    def clear(self, child: int) -> int:
        """End every process but this one; return how the child ended, as ``waitpid`` does."""
        # Elsewhere, -1 would be everybody.
        assert os.getpid() == 1, os.getpid()
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        ended = {}
        with contextlib.suppress(ChildProcessError):
            while True:
                process, status = os.waitpid(-1, linux.WAIT_FOR_CLONES_TOO)
                ended[process] = status
        return ended[child]


class NoIsolation:
    """Limits, a clean environment, and the filter; whatever needs a namespace is not contained."""

    def __init__(self):
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        self.watch = _or_none(Watch)
        self.not_contained = [*IN_THE_OPEN]
        if self.watch is None:
            self.not_contained += [NO_WATCH, "processes that leave its process group"]

    def prepare(self) -> None:
        self._scratch = tempfile.mkdtemp()

    def enter(self, bounds: Limits, code: str) -> str:
        # Away from the trainer's terminal.
        os.setsid()
        os.chdir(self._scratch)
        with open(f"{self._scratch}.py", "w", errors="surrogatepass") as file:
            file.write(code)
        limits.limit_process(bounds, count_processes=False)
        seccomp.forbid()
        return file.name

    def clear(self, child: int) -> int:
        # What it cannot see to kill, it does not wait for either.
        waited_for, ended = -1 if self.watch else child, {}
        with contextlib.suppress(ChildProcessError):
            while True:
                self._kill_below(child)
                process, status = os.waitpid(waited_for, 0)
                ended[process] = status
        shutil.rmtree(self._scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(f"{self._scratch}.py")
        return ended[child]

    def _kill_below(self, child: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        for process in self.watch.below() if self.watch else [child]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def require_filter() -> None:
    """Raise OSError where kernel calls cannot be filtered: there nothing is run."""
    if not _succeeds(seccomp.forbid):
        raise OSError(errno.ENOSYS, "its kernel's calls cannot be filtered")


def _or_none(make: Callable[[], Watch]) -> Watch | None:
    try:
        return make()
    except OSError:
        return None


def _succeeds(step: Callable[[], None]) -> bool:
    """Whether a step raises no OSError, tried in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            step()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _fork_beyond_the_limit() -> None:
    namespaces.become_nobody()
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    if os.fork() == 0:
        os._exit(0)
