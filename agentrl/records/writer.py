"""Writer of a run's records: a batch of episodes becomes two Parquet files."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentrl.records.files import StepFiles, refuse_earlier, remove_leftovers
from agentrl.records.rows import Batch, Row, rows_of
from agentrl.records.schema import COUNTS, EPISODES, FLOATS_OF_CALL, METADATA, TOKENS, VERSION
from agentrl.records.tables import read_about
from agentrl.records.text import Texts

TOKENS_READ_TOGETHER = 1 << 17
"""Of a row group. Whoever reads an episode reads one; smaller ones compress less: zstd makes a code
for every 128 kB, and so for each of a column's streams of bytes."""
OPTIONS = {"write_statistics": False, "store_schema": False, "write_page_checksum": True}
_CALL = "calls.list.element"
_REPEATED = ("agent", "model", "finish_reason", "why_forked", "advantage", "reward")
ENCODING = {
    "compression": "zstd",
    "compression_level": 6,
    "use_dictionary": [
        *(f"{_CALL}.{name}" for name in (*_REPEATED, "state", "observation")),
        f"{_CALL}.measures.key_value.key",
    ],
    "column_encoding": {
        "ids.list.element": "BYTE_STREAM_SPLIT",
        "parents.list.element": "DELTA_BINARY_PACKED",
        **{f"{_CALL}.{name}": "DELTA_BINARY_PACKED" for name in COUNTS},
        f"{_CALL}.versions.list.element": "DELTA_BINARY_PACKED",
        **{f"{_CALL}.{name}.list.element": "BYTE_STREAM_SPLIT" for name in FLOATS_OF_CALL},
        f"{_CALL}.measures.key_value.value.list.element": "BYTE_STREAM_SPLIT",
    },
}
"""Of the tokens: ids and floats lie in four streams of bytes, counts as differences. Of the rows of
episodes a column has few bytes: Parquet's own snappy is as small, and read twice as fast."""


class Writer:
    """A run's ``records/``, for one thread to write."""

    def __init__(self, folder: Path):
        """Raises ValueError where the run has records of an earlier form."""
        refuse_earlier(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self._folder = folder

    def write(self, batch: Batch) -> None:
        """All of it appears, or nothing; what was recorded of it before is replaced.

        With a step that is recorded again goes its evaluation, which was of other weights.
        """
        files = StepFiles(self._folder, batch.step, batch.held_out)
        of_step = StepFiles(self._folder, batch.step, held_out=False)
        first_group = 0
        if batch.held_out and of_step["episodes"].exists():
            first_group = read_about(of_step["episodes"])["num_groups"]
        blocks, episodes, cap = rows_of(batch, first_group, lambda ids: self._texts.whole(ids))
        about = {"version": VERSION, "step": batch.step, "held_out": batch.held_out}
        about |= {"num_groups": len(batch.groups), "importance_cap": cap}
        with _aside(files["tokens"]) as tokens, _aside(files["episodes"]) as rows:
            _save(tokens, TOKENS, _row_groups(blocks), about, **ENCODING)
            _save(rows, EPISODES, [episodes], about)
            if not batch.held_out:
                StepFiles(self._folder, batch.step, held_out=True).remove()
            files.remove()
            tokens.replace(files["tokens"])
            rows.replace(files["episodes"])
        _flush(self._folder)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self._folder.parent / "tokenizer")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A hidden name beside a file's, of which nothing is left where writing fails."""
    beside = path.with_name(f".{path.name}")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _row_groups(blocks: Sequence[Row]) -> Iterator[list[Row]]:
    together, num_tokens = [], 0
    for block in blocks:
        together.append(block)
        num_tokens += len(block["ids"])
        if num_tokens >= TOKENS_READ_TOGETHER:
            yield together
            together, num_tokens = [], 0
    yield together


def _save(
    path: Path,
    columns: pa.Schema,
    row_groups: Iterable[Sequence[Row]],
    about: dict[str, Any],
    **encoding: Any,
) -> None:
    with path.open("wb") as file:
        with pq.ParquetWriter(file, columns, **OPTIONS, **encoding) as writer:
            for rows in row_groups:
                writer.write_table(pa.Table.from_pylist(rows, columns))
            writer.add_key_value_metadata({METADATA: json.dumps(about)})
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """A file's name is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
