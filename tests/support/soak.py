"""The soak: what ``make slow`` looks at briefly, looked at for long.

    python -m tests.support.soak
    python -m tests.support.soak -k kills

Prints a table for experiments/LOG.md, and ends with the exit status of the tests.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version

import psutil
import pytest


class Table:
    """A pytest plugin that notes each entry's size, seconds and outcome."""

    def __init__(self):
        self.entries: dict[str, tuple[float, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds, outcome = self.entries.get(report.nodeid, (0.0, "passed"))
        # Setting up and taking down count, and may fail.
        outcome = outcome if report.passed else report.outcome
        self.entries[report.nodeid] = (seconds + report.duration, outcome)

    def lines(self) -> Iterator[str]:
        yield "| entry | size | seconds | outcome |"
        yield "|---|---|---|---|"
        for nodeid, (seconds, outcome) in self.entries.items():
            entry, size = entry_and_size(nodeid)
            yield f"| {entry} | {size} | {seconds:.0f} | {outcome} |"


def entry_and_size(nodeid: str) -> tuple[str, str]:
    """What stands in the table of a test.

    >>> entry_and_size("tests/runs/test_resume.py::test_killed_at_random_moments[20 kills]")
    ('resume: killed at random moments', '20 kills')
    >>> entry_and_size("tests/test_a.py::test_b")
    ('a: b', '')
    """
    path, _, test = nodeid.partition("::")
    name, _, size = test.partition("[")
    file = path.rpartition("/")[2].removesuffix(".py")
    words = [text.removeprefix("test_").replace("_", " ") for text in (file, name)]
    return ": ".join(words), size.removesuffix("]")


def surroundings() -> str:
    """Day, commit, machine and versions, in a line."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    cores, gib = os.cpu_count(), psutil.virtual_memory().total / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"## {date.today()}: the soak, at {commit or 'no commit'}\n"
        f"{cores} cores ({platform.machine()}), {gib:.0f} GiB, Python {platform.python_version()}, "
        f"{libraries}"
    )


def main(flags: list[str]) -> int:
    # Nothing is skipped without a word; see tests/support/skips.py.
    os.environ.setdefault("CI", "true")
    table, started = Table(), time.monotonic()
    status = pytest.main(["-m", "soak", "-v", *flags], plugins=[table])
    print(f"\n{surroundings()}\n", *table.lines(), sep="\n")
    print(f"\n{len(table.entries)} entries in {time.monotonic() - started:.0f} s")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
