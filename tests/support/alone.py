"""Turns at the machine: where two processes run tests, a test marked ``alone`` has it to itself.

Such a test compares times. The others share the machine.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path

import pytest


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for what others do in this folder's turns: for all of it, or for who is alone."""
    with (folder / "queue").open("w") as queue, (folder / "machine").open("w") as machine:
        # Who waits to be alone is not overtaken.
        flock(queue, LOCK_EX)
        flock(machine, LOCK_EX if alone else LOCK_SH)
        flock(queue, LOCK_UN)
        try:
            yield
        finally:
            # Not by closing it: a process that was forked meanwhile has it open, too.
            flock(machine, LOCK_UN)


@pytest.fixture(autouse=True)
def machine(request, tmp_path_factory):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    is_alone = request.node.get_closest_marker("alone") is not None
    with turn(tmp_path_factory.getbasetemp().parent, alone=is_alone):
        yield
