"""The index of a run's records, ``rollouts/records.sqlite``: a row an episode, a row a group.

What it announces is whole on the disk: a step's groups are written first, and its rows are
committed together. A journal that other hosts see, too, guards a commit: SQLite's write-ahead log
does not work on network file systems.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

VERSION = 1
"""Of the records; a reader knows one."""
APPLICATION = 0x61726C31
"""Marks an SQLite file as an index of ours."""
WAIT_SECONDS = 20.0
"""How long a reader waits while a commit is on its way, and a writer for readers."""

SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
CREATE TABLE batches (
    step INTEGER, held_out INTEGER, PRIMARY KEY (step, held_out)) WITHOUT ROWID;
CREATE TABLE groups (
    step INTEGER, place INTEGER, held_out INTEGER, task_id TEXT, offset INTEGER, length INTEGER,
    first INTEGER, PRIMARY KEY (step, place)) WITHOUT ROWID;
CREATE TABLE episodes (
    step INTEGER, place INTEGER, episode INTEGER, status TEXT, error TEXT, reward REAL,
    rewards TEXT, success INTEGER, metrics TEXT, milliseconds INTEGER, num_calls INTEGER,
    num_tokens INTEGER, num_trained INTEGER, PRIMARY KEY (step, place, episode)) WITHOUT ROWID;
CREATE TABLE metric_names (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
"""


def index_path(rollouts: Path) -> Path:
    return rollouts / "records.sqlite"


def step_path(rollouts: Path, step: int) -> Path:
    """Where a step's pieces are, one after the other."""
    return rollouts / f"step-{step:05d}.bin"


def create(rollouts: Path) -> sqlite3.Connection:
    """Open the index for writing; make it where there is none."""
    rollouts.mkdir(parents=True, exist_ok=True)
    is_new = not index_path(rollouts).exists()
    connection = sqlite3.connect(index_path(rollouts), timeout=WAIT_SECONDS)
    if is_new:
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    check(connection)
    return connection


def check(connection: sqlite3.Connection) -> None:
    """Raise ValueError where this is no index, or one of another version."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise ValueError("its rollouts/records.sqlite is no index of records")
    if version != VERSION:
        raise ValueError(
            f"its records are of version {version}, and this is a reader of version {VERSION}: "
            "open it with the commit that config.json names"
        )


@contextmanager
def reading(rollouts: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing; each thread and each question has its own.

    Raises ValueError where the records are not this version's.
    """
    with closing(_connect(rollouts) if index_path(rollouts).exists() else _empty(rollouts)) as (
        connection
    ):
        check(connection)
        yield connection


def _empty(rollouts: Path) -> sqlite3.Connection:
    """Of a run that has recorded nothing yet."""
    if any(rollouts.glob("step-*.npz")):
        raise ValueError("its records are an earlier version's, step-*.npz")
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    return connection


def _connect(rollouts: Path) -> sqlite3.Connection:
    path = index_path(rollouts).resolve()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=WAIT_SECONDS)
    try:
        connection.execute("SELECT 1 FROM batches").fetchone()
    except sqlite3.OperationalError:
        # A writer was killed while it committed: what it had begun has to be taken back first.
        connection.close()
        if not path.exists() or not os.access(path, os.W_OK):
            raise
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=WAIT_SECONDS)
    return connection


def cut_back(rollouts: Path, last_step: int) -> None:
    """Forget the steps after the last; -1: all of them.

    Raises ValueError where the records are not this version's.
    """
    if not index_path(rollouts).exists():
        return
    try:
        with closing(create(rollouts)) as connection, connection:
            for table in ("batches", "groups", "episodes"):
                connection.execute(f"DELETE FROM {table} WHERE step > ?", (last_step,))
    except sqlite3.DatabaseError as error:
        raise ValueError(f"the records in {rollouts} cannot be cut back: {error}") from error
    # What the index does not announce is nothing: a kill between the two leaves no harm.
    for file in rollouts.glob("step-*.bin"):
        if int(file.stem.removeprefix("step-")) > last_step:
            file.unlink()
