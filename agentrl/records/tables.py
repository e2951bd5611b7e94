"""Tables of a step's files as they are read, and checked. All raise ValueError, in a sentence."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import eq, ge, le
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentrl.records.schema import CALL, EPISODES, METADATA, TOKENS, VERSION

KEPT_ROW_GROUPS = 2
"""Whose tokens are kept: an episode's neighbours are likely to be asked for next."""
FILTERS = {name: (name, eq) for name in ("task_id", "group", "episode", "status")}
FILTERS |= {"min_reward": ("reward", ge), "max_reward": ("reward", le)}
FILTERS |= {"habit": ("metrics", lambda metrics, name: dict(metrics).get(name, 0.0) > 0)}
"""The column that each looks at, and whether it holds for what is there and what is wanted."""


def read_rows(path: Path, **filters: Any) -> list[dict[str, Any]]:
    """Rows of an episodes file; see ``RunRecords.episodes``."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    columns = [FILTERS[name][0] for name in wanted]
    with _in_a_sentence(path):
        file = _opened(path)
        # Most files of a long run have nothing that is wanted: a column or two say so.
        rows = file.read(columns, use_threads=False).to_pylist()
        chosen = [i for i, row in enumerate(rows) if all(_holds(row, *w) for w in wanted.items())]
        if wanted and not chosen:
            return []
        rows = _checked(file.read(use_threads=False), EPISODES).to_pylist()
        return [rows[i] for i in chosen] if wanted else rows


def _holds(row: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a filter does, for a row with its column."""
    column, holds = FILTERS[name]
    return row.get(column) is not None and holds(row[column], value)


def read_block(path: Path, number: int) -> dict[str, Any]:
    """One row of a tokens file, the calls as a table; and the file's metadata."""
    with _in_a_sentence(path):
        file, now = _opened(path), path.stat()
        for index in range(file.num_row_groups):
            size = file.metadata.row_group(index).num_rows
            if 0 <= number < size:
                # Files do not change, but another may have taken the name.
                rows = _row_group(path, index, (now.st_ino, now.st_size, now.st_mtime_ns))
                row = {name: rows[name][number].values for name in TOKENS.names}
                calls = pa.Table.from_struct_array(row["calls"])
                return _about(file) | row | {"calls": _checked(calls, CALL)}
            number -= size
        raise ValueError("it lacks the block of the episode")


@lru_cache(maxsize=KEPT_ROW_GROUPS)
def _row_group(path: Path, index: int, state: Sequence[int]) -> pa.Table:
    return _checked(_opened(path).read_row_group(index), TOKENS)


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, MemoryError, pa.ArrowException) as error:
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} cannot be read: {why}") from error


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


def _checked(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Raises ValueError where a column lacks that has to be there."""
    for one in wanted:
        if not one.nullable and one.name not in table.column_names:
            raise ValueError(f"it has no column {one.name}")
    return table
