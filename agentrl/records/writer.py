"""Writer of a run's records: a step's episodes become two Parquet files."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentrl.records.files import StepFiles, remove_leftovers
from agentrl.records.rows import gathered, rows_of
from agentrl.records.schema import EPISODES, FLOATS_OF_CALL, METADATA, TOKENS, VERSION
from agentrl.records.scores import Row, Scores, trained
from agentrl.records.tables import read_rows
from agentrl.types import Group, Sample

TOKENS_READ_TOGETHER = 1 << 17
"""Of a row group. Whoever reads an episode reads one; smaller ones compress less: zstd makes a code
for every 128 kB, and so for each of a column's streams of bytes."""
LISTS = ["ids", "parents", *(f"calls.list.element.{name}" for name in FLOATS_OF_CALL)]
LISTS += ["calls.list.element.measures.key_value.value"]
STREAMS = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in LISTS}
"""What there is of every token lies in four streams of bytes."""
OPTIONS = {
    "compression": "zstd",
    "compression_level": 12,
    # They take more than they save: a step has few values, or few that come twice.
    "use_dictionary": False,
    "write_statistics": False,
    "store_schema": False,
    "write_page_checksum": True,
}


class Writer:
    """A run's ``records/``, for one thread to write."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self._folder = folder

    def write(
        self,
        step: int,
        groups: Sequence[Group],
        samples: Sequence[Sample] = (),
        scores: Sequence[Scores] = (),
        *,
        held_out: bool = False,
    ) -> None:
        """All of it appears, or nothing; what was recorded of it before is replaced.

        With a step that is recorded again goes its evaluation, which was of other weights.
        """
        training, evaluation = (StepFiles(step, held, self._folder) for held in (False, True))
        files, first_group = evaluation if held_out else training, 0
        if held_out and training["episodes"].exists():
            numbers = [row["group"] for row in read_rows(training["episodes"])]
            first_group = 1 + max(numbers, default=-1)
        of_calls, cap = trained(groups, samples, scores)
        whose = {"step": step, "held_out": held_out}
        blocks, episodes = rows_of(groups, of_calls, first_group)
        about = {"version": VERSION, **whose, "num_groups": len(groups), "importance_cap": cap}
        with _aside(files["tokens"]) as tokens, _aside(files["episodes"]) as rows:
            row_groups = gathered(blocks, lambda row: len(row["ids"]), TOKENS_READ_TOGETHER)
            _save(tokens, TOKENS, row_groups, about, column_encoding=STREAMS)
            _save(rows, EPISODES, [[whose | row for row in episodes]], about)
            if not held_out:
                evaluation.remove()
            files.remove()
            tokens.replace(files["tokens"])
            rows.replace(files["episodes"])
        _flush(self._folder)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A hidden name beside a file's, of which nothing is left where writing fails."""
    beside = path.with_name(f".{path.name}")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


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
