"""Programs that were started with ``model.environment``: they carry its key, and end with it."""

import os
import signal
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

MOST_ROUNDS = 10


def end_processes(keys: Collection[str]) -> None:
    """Kill every process with one of these keys in its environment, whoever started it.

    Their children have it too, unless they were started without. Linux alone shows environments;
    elsewhere, and of another user's processes, nothing is seen and nothing ends.
    """
    wanted = [key.encode() for key in keys]
    # One that was about to start another may have done so before it died.
    for _ in range(MOST_ROUNDS):
        found = list(_holders(wanted))
        for process in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if not found:
            break


def _holders(wanted: Collection[bytes]) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        # It may end while we look.
        with suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if int(folder.name) != os.getpid() and any(key in environment for key in wanted):
                yield int(folder.name)
