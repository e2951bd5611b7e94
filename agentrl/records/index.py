"""The index of a run's records, ``rollouts/records.sqlite``: a row an episode, a row a group.

What it announces is whole on the disk: a step's groups are written first, and its rows are
committed together. A journal that other hosts see, too, guards a commit: SQLite's write-ahead log
does not work on network file systems.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

VERSION = 1
"""Of the records; a reader knows one."""
APPLICATION = 0x61726C31
"""Marks an SQLite file as an index of ours."""
WAIT_SECONDS = 20.0
"""How long a reader waits while a commit is on its way, and a writer before it says so."""

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
    """Open the index for writing; make it where there is none.

    Raises ValueError where what is there is no index, or one of another version.
    """
    if not index_path(rollouts).exists():
        rollouts.mkdir(parents=True, exist_ok=True)
        # Whoever reads meanwhile finds none, or a whole one.
        beside = rollouts / ".records.sqlite"
        beside.unlink(missing_ok=True)
        with closing(sqlite3.connect(beside)) as connection:
            connection.executescript(SCHEMA)
        beside.replace(index_path(rollouts))
    return _checked(_open(rollouts, "rw"))


def _checked(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise ValueError("its rollouts/records.sqlite is no index of records")
        if version != VERSION:
            raise ValueError(
                f"its records are of version {version}, and this is a reader of version {VERSION}: "
                "open it with the commit that config.json names"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction, all of it or nothing.

    It waits for whoever reads, as long as that takes: no run ends because somebody looks at it.
    """
    _patiently(connection, "BEGIN IMMEDIATE")
    try:
        yield
        _patiently(connection, "COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            log.warning("records wait to be written: another process holds their index")


@contextmanager
def reading(rollouts: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing; each thread and each question has its own.

    Raises ValueError where the records are not this version's.
    """
    exists = index_path(rollouts).exists()
    with closing(_connect(rollouts) if exists else _empty(rollouts)) as connection:
        yield connection


def _empty(rollouts: Path) -> sqlite3.Connection:
    """Of a run that has recorded nothing yet."""
    if any(rollouts.glob("step-*.npz")):
        raise ValueError("its records are an earlier version's, step-*.npz")
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    return connection


def _connect(rollouts: Path) -> sqlite3.Connection:
    try:
        return _checked(_open(rollouts, "ro"))
    except sqlite3.OperationalError:
        # A writer was killed while it committed: what it had begun has to be taken back first.
        if not os.access(index_path(rollouts), os.W_OK):
            raise
        return _checked(_open(rollouts, "rw"))


def _open(rollouts: Path, mode: str) -> sqlite3.Connection:
    uri = f"{index_path(rollouts).resolve().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS)


def cut_back(rollouts: Path, last_step: int) -> None:
    """Forget the steps after the last; -1: all of them.

    Raises ValueError where the records are not this version's.
    """
    if not index_path(rollouts).exists():
        return
    try:
        with closing(create(rollouts)) as connection, writing(connection):
            for table in ("batches", "groups", "episodes"):
                connection.execute(f"DELETE FROM {table} WHERE step > ?", (last_step,))
    except sqlite3.DatabaseError as error:
        raise ValueError(f"the records in {rollouts} cannot be cut back: {error}") from error
    # What the index does not announce is nothing: a kill between the two leaves no harm.
    for file in rollouts.glob("step-*.bin"):
        if int(file.stem.removeprefix("step-")) > last_step:
            file.unlink()
