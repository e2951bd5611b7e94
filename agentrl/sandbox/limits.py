"""Limits of the code: rlimits of a process, and of all its processes together."""

import resource
from dataclasses import dataclass

PROCESSES = 32
"""Processes and threads."""
OPEN_FILES = 64
FILE_BYTES = 16 << 20


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
