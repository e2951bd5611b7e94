"""Reader of a run's records, while it is written too: rows at once, tokens when asked for."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agentrl.records.episode import EpisodeRecord, EpisodeRow, Key, record_of, row_of
from agentrl.records.files import StepFiles, recorded, refuse_earlier
from agentrl.records.tables import read_block, read_episodes
from agentrl.records.text import Ids, Texts

LARGEST_CONFIG = 1 << 24
"""Bytes of config.json."""
START = (-1, -1, -1)
"""Before the key of every episode."""
Unread = dict[str, None]
"""Sentences on what could not be read, each once."""


@dataclass(frozen=True, eq=False)
class Step:
    """A training step's episodes; each is read when it is asked for."""

    step: int
    _records: "RunRecords"

    @property
    def episodes(self) -> Iterator[EpisodeRecord]:
        return self._records.read_step(self.step, held_out=False)

    @property
    def held_out(self) -> Iterator[EpisodeRecord]:
        """Those of the evaluation after the step, where there was one."""
        return self._records.read_step(self.step, held_out=True)


@dataclass(frozen=True)
class Found:
    """Some of the episodes that were asked for."""

    rows: list[EpisodeRow]
    after: Key | None
    """The key to go on from; None where nothing is left."""
    unread: list[str]
    """What could not be read, and was passed over: a sentence each."""


@dataclass(frozen=True, eq=False)
class _Stored:
    """An episode's row, and where its tokens are."""

    row: EpisodeRow
    files: StepFiles
    block: int

    def read(self) -> EpisodeRecord:
        try:
            return record_of(self.row, read_block(self.files["tokens"], self.block))
        except ValueError as error:
            raise ValueError(f"step {self.row.step}, task {self.row.task_id}: {error}") from error


def load(run: str | Path) -> Iterator[Step]:
    """Yield the training steps of a run's folder in order; their episodes are read lazily.

    Raises ValueError where the folder is no run.
    """
    records = open_run(run)
    for step in records.steps():
        yield Step(step, records)


def open_run(folder: str | Path) -> "RunRecords":
    """Open a run's records; at once, however large they are.

    Raises ValueError, in a sentence, where it is no run, or its records are of before Parquet.
    """
    return RunRecords(Path(folder))


class RunRecords:
    """A run's folder, to be read; from several threads if need be."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config: dict[str, Any] = _read_config(folder)
        """What config.json says: experiment, commit, libraries, config, resumed."""
        refuse_earlier(folder)

    @property
    def name(self) -> str:
        """experiment/time, as the folders are called."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"

    def metrics(self) -> list[dict[str, Any]]:
        """The whole rows of metrics.jsonl, as of now."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        # What is behind the last newline is half written.
        return [_metrics_row(path, number, line) for number, line in enumerate(lines[:-1], 1)]

    def steps(self) -> list[int]:
        """The steps that have been recorded, as of now."""
        return list(dict.fromkeys(step for step, _ in self.batches()))

    def batches(self) -> list[tuple[int, bool]]:
        """What has been recorded, as of now: of each batch its step, and whether it is held out."""
        return [(files.step, files.held_out) for files in recorded(self._records)]

    def episodes(self, *, limit: int = 100, offset: int = 0, **wanted: Any) -> list[EpisodeRow]:
        """The episodes that all of ``wanted`` holds for, in the order of their keys.

        wanted: step, held_out, task_id, episode, group, status; min_reward, max_reward, of the mean
        over the agents; habit: a metric that is above 0; text: is looked for, in upper or lower
        case, in prompts and completions, which reads them until the limit is reached.
        Raises ValueError where something cannot be read.
        """
        found = (stored.row for stored, is_wanted in self._looked_through(**wanted) if is_wanted)
        return list(islice(found, offset, offset + limit))

    def page(
        self,
        *,
        after: Key | None = None,
        limit: int = 100,
        seconds: float = math.inf,
        **wanted: Any,
    ) -> Found:
        """Some of what ``episodes`` finds, from behind a key on; what is broken is passed over.

        seconds: so long texts are looked through, and then it is told what has been found.
        """
        rows, unread = [], {}
        end = math.inf if wanted.get("text") is None else time.monotonic() + seconds
        rest = self._looked_through(after=after or START, unread=unread, **wanted)
        for stored, is_wanted in rest:
            rows += [stored.row] if is_wanted else []
            if len(rows) == limit or time.monotonic() > end:
                is_more = next(rest, None) is not None
                return Found(rows, stored.row.key if is_more else None, list(unread))
        return Found(rows, None, list(unread))

    def read(
        self, step: int, task_id: str, episode: int, group: int | None = None
    ) -> EpisodeRecord:
        """One episode; raises ValueError where it is not there, or broken.

        group: where a task has several groups in a step (or in its evaluation), which of them;
        without it, the first.
        """
        for stored in self._stored(step=step, task_id=task_id, episode=episode, group=group):
            return stored.read()
        raise ValueError(f"{self.folder} has no episode {episode} of {task_id} in step {step}")

    def read_step(self, step: int, *, held_out: bool = False) -> Iterator[EpisodeRecord]:
        """All episodes of a step, group after group."""
        return (stored.read() for stored in self._stored(step=step, held_out=held_out))

    def decode(self, ids: Ids) -> list[str]:
        """The text of each token; where several make up one character, the first has it."""
        return self._texts.of(ids)

    @property
    def _records(self) -> Path:
        return self.folder / "records"

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.folder / "tokenizer")

    def _looked_through(
        self, *, text: str | None = None, unread: Unread | None = None, **filters: Any
    ) -> Iterator[tuple[_Stored, bool]]:
        """What passes the filters, and whether it says the text."""
        texts = None if text is None else self._texts
        for stored in self._stored(unread=unread, **filters):
            is_wanted = texts is None
            if texts is not None:
                with _passing_over(unread):
                    is_wanted = _says(stored.read(), text, texts)
            yield stored, is_wanted

    def _stored(
        self,
        *,
        after: Key = START,
        unread: Unread | None = None,
        step: int | None = None,
        held_out: bool | None = None,
        **filters: Any,
    ) -> Iterator[_Stored]:
        for files in recorded(self._records):
            asked = step in (None, files.step) and held_out in (None, files.held_out)
            rows = []
            if asked and files.step >= after[0]:
                with _passing_over(unread):
                    rows = _matching(read_episodes(files["episodes"]), **filters).to_pylist()
            stored = (_Stored(row_of(row), files, row["block"]) for row in rows)
            yield from (one for one in stored if one.row.key > after)


@contextmanager
def _passing_over(unread: Unread | None) -> Iterator[None]:
    """What cannot be read is noted; without notes it is raised."""
    try:
        yield
    except ValueError as error:
        if unread is None:
            raise
        unread[str(error)] = None


def _says(episode: EpisodeRecord, text: str, texts: Texts) -> bool:
    """Whether one of its conversations does, in upper or lower case."""
    # What another conversation begins with is in that one.
    inner = set(episode.parent.tolist())
    ends = [call for call in episode.calls if len(call.path) and call.leaf not in inner]
    said = "\n".join(texts.whole(episode.ids[call.path].tolist()) for call in ends)
    return text.casefold() in said.casefold()


def _matching(
    table: pa.Table,
    task_id: str | None = None,
    episode: int | None = None,
    group: int | None = None,
    status: str | None = None,
    min_reward: float | None = None,
    max_reward: float | None = None,
    habit: str | None = None,
) -> pa.Table:
    """The rows for which all hold."""
    wanted = [
        ("task_id", pc.equal, None if task_id is None else str(task_id)),
        ("episode", pc.equal, episode),
        ("group", pc.equal, group),
        ("status", pc.equal, status),
        ("reward", pc.greater_equal, min_reward),
        ("reward", pc.less_equal, max_reward),
    ]
    for name, holds, value in wanted:
        if value is not None:
            table = table.filter(holds(table[name], value))
    if habit is not None:
        table = table.filter(pc.greater(pc.map_lookup(table["metrics"], habit, "first"), 0.0))
    return table


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} is not the folder of a run: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("config", {}), dict):
        raise ValueError(f"{folder} is not the folder of a run: {path} holds no settings")
    return config


def _metrics_row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}, is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}, is no JSON object")
    return row
