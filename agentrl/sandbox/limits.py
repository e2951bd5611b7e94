"""Limits of the code: rlimits of a process, and of all its processes together.

The kernel bounds each process by itself. It would bound them together by a control group, which
few containers may make; so the worker looks, often, into /proc.
"""

import contextlib
import os
import resource
from dataclasses import dataclass

PROCESSES = 32
"""Processes and threads."""
OPEN_FILES = 64
FILE_BYTES = 16 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one piece of code may use."""

    seconds: float
    """From its start, on the clock on the wall."""
    memory_mib: int
    """Of one process, enforced by the kernel; and of all together, looked at every few
    milliseconds. What it writes into its scratch folder comes on top, and has its own bound."""
    output_bytes: int
    """Printed; its pipe is cut after that."""


def limit_process(limits: Limits, *, count_processes: bool) -> None:
    """Limit this process, and each of those that it will start."""
    values = {
        resource.RLIMIT_CPU: int(limits.seconds) + 1,
        resource.RLIMIT_AS: limits.memory_mib << 20,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if count_processes:
        values[resource.RLIMIT_NPROC] = PROCESSES
    for limit, value in values.items():
        resource.setrlimit(limit, (value, value))


class Watch:
    """The processes below one, by the ``/proc`` of the namespace it was made in. Raises OSError."""

    def __init__(self):
        # Kept open: the worker's own root has no /proc.
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        # Not every kernel tells.
        self._read("thread-self/children")

    def below(self) -> list[str]:
        """The numbers, outside, of the processes that descend from this one."""
        me = os.readlink("self", dir_fd=self._proc)
        found, unseen = [], self._children(me)
        while unseen:
            found.append(unseen.pop())
            unseen += self._children(found[-1])
        return found

    def exceeded(self, memory_bytes: int, processes: int) -> str | None:
        """Which of the two bounds the processes below exceed together: its name, or None."""
        below = self.below()
        if sum(self._threads(process) for process in below) > processes:
            return "processes"
        # Pages that a fork shares are resident in both; only the slow count shares them out.
        if sum(map(self._resident, below)) <= memory_bytes:
            return None
        return "memory" if sum(map(self._share, below)) > memory_bytes else None

    def _children(self, process: str) -> list[str]:
        with contextlib.suppress(OSError):
            tasks = self._list(f"{process}/task")
            return " ".join(self._read(f"{process}/task/{task}/children") for task in tasks).split()
        return []

    def _threads(self, process: str) -> int:
        with contextlib.suppress(OSError):
            return len(self._list(f"{process}/task"))
        return 0

    def _resident(self, process: str) -> int:
        with contextlib.suppress(OSError):
            # A process whose first thread has ended shows its memory in the others alone; one that
            # ends has none.
            tasks = self._list(f"{process}/task")
            pages = [self._read(f"{process}/task/{task}/statm").split()[1] for task in tasks]
            return PAGE * max(map(int, pages), default=0)
        return 0

    def _share(self, process: str) -> int:
        """Its memory, of which pages in n processes count 1/n. Or all, where that is hidden."""
        with contextlib.suppress(OSError):
            for line in self._read(f"{process}/smaps_rollup").splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
        return self._resident(process)

    def _list(self, path: str) -> list[str]:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
        try:
            return os.listdir(folder)
        finally:
            os.close(folder)

    def _read(self, path: str) -> str:
        with os.fdopen(os.open(path, os.O_RDONLY, dir_fd=self._proc)) as text:
            return text.read()
