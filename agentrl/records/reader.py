"""Reading a run's records, while it is written too: rows from the index, tokens when asked for."""

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, starmap
from pathlib import Path
from typing import Any

from agentrl.records import index
from agentrl.records.episode import COLUMNS, EpisodeRecord, EpisodeRow, record_of, row_of
from agentrl.records.growing import GrowingRows
from agentrl.records.piece import Piece, decompress, unpack
from agentrl.records.text import Ids, Texts

LARGEST_CONFIG = 1 << 24
"""Bytes of config.json."""
PAGE = 500
"""Rows that are read at once."""
Place = tuple[int, int, int]
"""Of an episode in the order of all: step, its group's place there, its number in the group."""
Stored = tuple[int, int, int]
"""Where an episode's tokens are: its piece's offset and length, its group's first episode there."""
START = (-1, -1, -1)
METRIC = "'$.\"' || (SELECT id FROM metric_names WHERE name = ?) || '\"'"
"""Where a metric is in an episode's JSON."""


@dataclass(frozen=True, eq=False)
class Step:
    """A training step's episodes; each group is read when its first episode is asked for."""

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
    after: Place | None
    """The place to go on from; None where nothing is left."""
    unread: list[str]
    """What could not be read, and was passed over: a sentence each."""


def load(run: str | Path) -> Iterator[Step]:
    """Yield the training steps of a run's folder in order; their episodes are read lazily.

    Raises ValueError where the folder holds no records.
    """
    records = open_run(run)
    for step in records.steps():
        yield Step(step, records)


def open_run(folder: str | Path) -> "RunRecords":
    """Open a run's records; at once, however large they are.

    Raises ValueError, in a sentence, where it is no run, or its records are another version's or
    broken.
    """
    return RunRecords(Path(folder))


class RunRecords:
    """A run's folder, to be read; from several threads if need be."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config: dict[str, Any] = self._read_config()
        """What config.json says: experiment, commit, libraries, config, resumed."""
        self._metrics = GrowingRows(folder / "metrics.jsonl")
        # Its other episodes are likely to be asked for next.
        self._last_piece: tuple[Any, Any] = None, None
        with self._index():
            pass

    @property
    def name(self) -> str:
        """experiment/time, as the folders are called."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}"

    def metrics(self) -> list[dict[str, Any]]:
        """The whole rows of metrics.jsonl, as of now."""
        return self._metrics.read()

    def steps(self) -> list[int]:
        """The steps that have been recorded, as of now."""
        with self._index() as connection:
            rows = connection.execute("SELECT DISTINCT step FROM batches ORDER BY step")
            return [step for (step,) in rows]

    def batches(self) -> list[tuple[int, bool]]:
        """What has been recorded, as of now: of each batch its step, and whether it is held out."""
        with self._index() as connection:
            rows = connection.execute("SELECT step, held_out FROM batches ORDER BY step, held_out")
            return [(step, bool(held_out)) for step, held_out in rows]

    def episodes(
        self,
        step: int | None = None,
        task_id: str | None = None,
        status: str | None = None,
        min_reward: float | None = None,
        max_reward: float | None = None,
        habit: str | None = None,
        text: str | None = None,
        limit: int = 100,
        offset: int = 0,
        held_out: bool | None = None,
    ) -> list[EpisodeRow]:
        """The episodes that all the given hold for, in the order of steps, tasks and episodes.

        reward: the mean over the agents. habit: a metric of the episode that is above 0. text: is
        looked for, in upper or lower case, in prompts and completions; that reads the groups of the
        rows that the others leave, until the limit is reached, and raises ValueError where one
        cannot be read.
        """
        given = _conditions(step, task_id, status, min_reward, max_reward, habit, held_out)
        if text is None:
            return [row for row, _ in self._page(given, limit, offset)]
        found = (episode.row for episode in self._each(given) if self._says(episode, text))
        return list(islice(found, offset, offset + limit))

    def page(
        self,
        *,
        after: Place | None = None,
        limit: int = 100,
        seconds: float = math.inf,
        text: str | None = None,
        **filters: Any,
    ) -> Found:
        """Some of what ``episodes`` finds, from behind a place on; what is broken is passed over.

        seconds: so long texts are looked through, and then it is told what has been found.
        """
        given, after = _conditions(**filters), after or START
        if text is None:
            rows = [row for row, _ in self._page(given | _behind(after), limit + 1)]
            return Found(rows[:limit], rows[limit - 1].where if len(rows) > limit else None, [])
        found, unread, end = [], [], time.monotonic() + seconds
        rest = self._rows(given, after)
        for row, where in rest:
            try:
                record = self._record(row, where)
            except ValueError as error:
                unread.append(str(error))
            else:
                if self._says(record, text):
                    found.append(row)
            if len(found) == limit or time.monotonic() > end:
                return Found(found, row.where if next(rest, None) else None, _different(unread))
        return Found(found, None, _different(unread))

    def read(
        self, step: int, task_id: str, episode: int, place: int | None = None
    ) -> EpisodeRecord:
        """One episode; raises ValueError where it is not there, or broken.

        place: where a task has several groups in a step (or in its evaluation), which of them;
        without it, the first.
        """
        given = {"step = ?": (step,), "task_id = ?": (str(task_id),), "episode = ?": (episode,)}
        if place is not None:
            given["place = ?"] = (place,)
        rows = self._page(given, limit=1)
        if not rows:
            raise ValueError(f"{self.folder} has no episode {episode} of {task_id} in step {step}")
        return self._record(*rows[0])

    def read_step(self, step: int, *, held_out: bool = False) -> Iterator[EpisodeRecord]:
        """All episodes of a step, group after group."""
        return self._each({"step = ?": (step,), "held_out = ?": (held_out,)})

    def decode(self, ids: Ids) -> list[str]:
        """The text of each token; where several make up one character, the first has it."""
        return self._texts.of(ids)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.folder / "tokenizer")

    def _says(self, episode: EpisodeRecord, text: str) -> bool:
        """Whether one of its conversations does, in upper or lower case."""
        # What another conversation begins with is in that one.
        inner = set(episode.parent.tolist())
        ends = [call for call in episode.calls if call.leaf not in inner]
        said = "\n".join(self._texts.whole(episode.ids[call.path].tolist()) for call in ends)
        return text.casefold() in said.casefold()

    def _each(self, given: Mapping[str, tuple]) -> Iterator[EpisodeRecord]:
        return starmap(self._record, self._rows(given))

    def _rows(
        self, given: Mapping[str, tuple], after: Place = START
    ) -> Iterator[tuple[EpisodeRow, Stored]]:
        """Page after page, so that nobody who writes waits for a reader."""
        while rows := self._page(given | _behind(after)):
            yield from rows
            after = rows[-1][0].where

    def _page(
        self, given: Mapping[str, tuple], limit: int = PAGE, offset: int = 0
    ) -> list[tuple[EpisodeRow, Stored]]:
        """Rows, and where their tokens are.

        given: conditions, each with the values of its marks.
        """
        where = " AND ".join(given) or "TRUE"
        values = [value for values in given.values() for value in values]
        with self._index() as connection:
            stored = connection.execute(
                f"SELECT offset, length, first, {', '.join(COLUMNS)} "
                f"FROM episodes JOIN groups USING (step, place) WHERE {where} "
                "ORDER BY step, place, episode LIMIT ? OFFSET ?",
                (*values, limit, offset),
            ).fetchall()
            # Asked for last: a step that is written in between may have new ones.
            names = dict(connection.execute("SELECT id, name FROM metric_names"))
        # Whoever writes waits while the index is read, so rows are made afterwards.
        return [(row_of(row[3:], names), row[:3]) for row in stored]

    def _record(self, row: EpisodeRow, where: Stored) -> EpisodeRecord:
        offset, length, first = where
        try:
            return record_of(row, self._piece(row.step, offset, length), first + row.episode)
        except (OSError, ValueError) as error:
            place = f"step {row.step}, task {row.task_id}, in {self.folder}"
            raise ValueError(f"{place} cannot be read: {error}") from error

    def _piece(self, step: int, offset: int, length: int) -> Piece:
        with index.step_path(self._rollouts, step).open("rb") as file:
            # A run that was resumed may have other pieces in the same place.
            now = os.fstat(file.fileno())
            key = (step, offset, length, now.st_ino, now.st_mtime_ns)
            kept, piece = self._last_piece
            if kept != key:
                if not 0 <= length <= now.st_size - offset:
                    raise ValueError("its end is missing")
                file.seek(offset)
                piece = unpack(decompress(file.read(length)))
                self._last_piece = key, piece
        return piece

    @property
    def _rollouts(self) -> Path:
        return self.folder / "rollouts"

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        try:
            with index.reading(self._rollouts) as connection:
                yield connection
        except sqlite3.Error as error:
            raise ValueError(f"the index of {self.folder} cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.folder} cannot be read: {error}") from error

    def _read_config(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            with path.open("rb") as file:
                config = json.loads(file.read(LARGEST_CONFIG))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.folder} is not the folder of a run: {error}") from error
        if not isinstance(config, dict) or not isinstance(config.get("config", {}), dict):
            raise ValueError(f"{self.folder} is not the folder of a run: {path} holds no settings")
        return config


def _conditions(
    step: int | None = None,
    task_id: str | None = None,
    status: str | None = None,
    min_reward: float | None = None,
    max_reward: float | None = None,
    habit: str | None = None,
    held_out: bool | None = None,
) -> dict[str, tuple]:
    """SQL conditions, each with the values of its marks."""
    wanted = {
        "step = ?": step,
        "task_id = ?": None if task_id is None else str(task_id),
        "held_out = ?": held_out,
        "status = ?": status,
        "reward >= ?": min_reward,
        "reward <= ?": max_reward,
        f"json_extract(metrics, {METRIC}) > 0": habit,
    }
    return {name: (value,) for name, value in wanted.items() if value is not None}


def _different(sentences: list[str]) -> list[str]:
    """Each once: that of a group is the same for all its episodes."""
    return list(dict.fromkeys(sentences))


def _behind(place: Place) -> dict[str, tuple]:
    return {"(step, place, episode) > (?, ?, ?)": place}
