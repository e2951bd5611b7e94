"""Tables of a step's files as they are read: checked, and brought to the schema.

Files never change, so what was read is kept: under the file's name, and under what changes where
another file has taken that name. All here raise ValueError, in a sentence.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentrl.records.schema import CALL, EPISODES, METADATA, TOKENS, VERSION

KEPT_STEPS = 10_000
"""Of which the rows of episodes are kept: some 10 kB each."""
KEPT_ROW_GROUPS = 2
"""Whose tokens are kept: an episode's neighbours are likely to be asked for next."""


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    with _in_a_sentence(path):
        return _about(_opened(path))


def read_episodes(path: Path) -> pa.Table:
    with _in_a_sentence(path):
        return _episodes(path, _state(path))


def read_block(path: Path, number: int) -> dict[str, Any]:
    """One row of a tokens file, the calls as a table; and the file's metadata."""
    with _in_a_sentence(path):
        state, file = _state(path), _opened(path)
        for index in range(file.num_row_groups):
            size = file.metadata.row_group(index).num_rows
            if 0 <= number < size:
                rows = _row_group(path, state, index)
                row = {name: rows[name][number].values for name in TOKENS.names}
                calls = _conformed(pa.Table.from_struct_array(row["calls"]), CALL)
                return _about(file) | row | {"calls": calls}
            number -= size
        raise ValueError("it lacks the block of the episode")


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, MemoryError, pa.ArrowException) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read: {why}") from error


def _state(path: Path) -> tuple[int, int, int]:
    now = path.stat()
    return now.st_ino, now.st_size, now.st_mtime_ns


@lru_cache(maxsize=KEPT_STEPS)
def _episodes(path: Path, state: tuple[int, int, int]) -> pa.Table:
    return _conformed(_opened(path).read(), EPISODES)


@lru_cache(maxsize=KEPT_ROW_GROUPS)
def _row_group(path: Path, state: tuple[int, int, int], index: int) -> pa.Table:
    return _conformed(_opened(path).read_row_group(index), TOKENS)


def _opened(path: Path) -> pq.ParquetFile:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    _about(file)
    return file


def _about(file: pq.ParquetFile) -> dict[str, Any]:
    about = json.loads((file.metadata.metadata or {}).get(METADATA, b"{}"))
    if "version" not in about:
        raise ValueError("it is no file of records")
    if about["version"] != VERSION:
        raise ValueError(
            f"its records are of version {about['version']}, and this is a reader of version "
            f"{VERSION}: open it with the commit that config.json names"
        )
    return about


def _conformed(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The wanted columns: null where they are not there and may be; others are left out."""
    columns = {}
    for one in wanted:
        if one.name in table.column_names:
            column = table[one.name]
            # A call may lack fields, or have new ones.
            is_one = one.name == "calls" or column.type == one.type
            columns[one.name] = column if is_one else column.cast(one.type)
        elif one.nullable:
            columns[one.name] = pa.nulls(len(table), one.type)
        else:
            raise ValueError(f"it has no column {one.name}")
    return pa.table(columns)
