"""Usage of processes and memory by the code, read from /proc.

The kernel bounds each process by itself. It would bound them together by a control group, which
few containers may make; so the worker looks, often.
"""

import contextlib
import os

PAGE = os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The processes below one, by the ``/proc`` of the namespace it was made in."""

    def __init__(self):
        # Kept open: the worker's own root has no /proc.
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        self._check()

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

    def _check(self) -> None:
        me = os.readlink("self", dir_fd=self._proc)
        self._read(f"{me}/task/{me}/children")

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
            # A process whose first thread has ended shows its memory in the others alone.
            tasks = self._list(f"{process}/task")
            pages = [self._read(f"{process}/task/{task}/statm").split()[1] for task in tasks]
            return PAGE * max(map(int, pages))
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
        file = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        with os.fdopen(file) as text:
            return text.read()
