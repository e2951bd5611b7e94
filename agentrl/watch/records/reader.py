"""Reading a run's records, while it is written too: rows from the index, groups when asked for."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from agentrl.types import Reward
from agentrl.watch.records import index
from agentrl.watch.records.group import StoredCall, StoredGroup, decompress, unpack
from agentrl.watch.records.text import Texts

LARGEST_CONFIG = 1 << 24
"""Bytes of config.json."""
PAGE = 500
"""Rows that are read at once."""
COLUMN_NAMES = (
    *("step", "task_id", "episode", "place", "held_out", "status", "error", "reward", "rewards"),
    *("success", "metrics", "milliseconds", "num_calls", "num_tokens", "num_trained"),
)
COLUMNS = ", ".join(COLUMN_NAMES)


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """What the index knows of an episode."""

    step: int
    task_id: str
    episode: int
    """Its number in its group."""
    place: int
    """Of its group in the step: tells two groups of one task apart."""
    held_out: bool
    """Drawn by the step's evaluation, after the step."""
    status: str
    error: str | None
    reward: Reward | None
    success: bool | None
    metrics: dict[str, float]
    seconds: float
    num_calls: int
    num_tokens: int
    """Tree tokens, each counted once."""
    num_trained: int
    """Loss terms: a token that several calls sampled counts for each."""

    @property
    def mean_reward(self) -> float | None:
        if isinstance(self.reward, dict):
            return sum(self.reward.values()) / len(self.reward)
        return self.reward


@dataclass(frozen=True, eq=False, kw_only=True)
class CallRecord:
    """One call, as a path of its episode's tree. Arrays have a value a completion token."""

    agent: str
    path: np.ndarray
    """Tree positions, from the root to the last token of the completion."""
    start: int
    """Where on the path the completion begins."""
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    finish_reason: str
    under_grammar: bool
    why_forked: str | None
    """Why it does not go on where its agent's last call ended, where that was said."""
    in_loss: bool
    advantage: float | None
    """None where it was not trained."""
    sampler_logprobs: np.ndarray
    trainer_logprobs: np.ndarray
    entropies: np.ndarray
    weights: np.ndarray
    """These three are NaN where it was not trained."""

    @property
    def leaf(self) -> int:
        return int(self.path[-1])


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeRecord:
    """One episode's token tree, depth-first, and its calls in order.

    Arrays are of length T. Where several calls sampled one token, they show the first call that was
    in the loss; the calls have each their own. NaN where there is no value.
    """

    row: EpisodeRow
    ids: np.ndarray
    parent: np.ndarray
    """-1 at a root."""
    depth: np.ndarray
    in_loss: np.ndarray
    sampler_logprob: np.ndarray
    trainer_logprob: np.ndarray
    entropy: np.ndarray
    advantage: np.ndarray
    weight: np.ndarray
    calls: list[CallRecord]


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
        self._metrics = _GrowingRows(folder / "metrics.jsonl")
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
        rows that the others leave, until the limit is reached.
        """
        given = {
            "episodes.step = ?": step,
            "groups.task_id = ?": None if task_id is None else str(task_id),
            "groups.held_out = ?": held_out,
            "status = ?": status,
            "reward >= ?": min_reward,
            "reward <= ?": max_reward,
            "json_extract(metrics, '$.\"' || (SELECT id FROM metric_names WHERE name = ?)"
            " || '\"') > 0": habit,
        }
        given = {condition: value for condition, value in given.items() if value is not None}
        with self._index() as connection:
            if text is None:
                return self._rows(connection, given, limit, offset)
        found = (e.row for e in self._each(given) if text.casefold() in self._text(e).casefold())
        return list(islice(found, offset, offset + limit))

    def read(
        self, step: int, task_id: str, episode: int, place: int | None = None
    ) -> EpisodeRecord:
        """One episode; raises ValueError where it is not there, or broken.

        place: where a task has several groups in a step (or in its evaluation), which of them;
        without it, the first.
        """
        given = {"episodes.step = ?": step, "groups.task_id = ?": str(task_id)}
        given["episode = ?"] = episode
        if place is not None:
            given["groups.place = ?"] = place
        with self._index() as connection:
            rows = self._rows(connection, given, 1, 0)
        if not rows:
            raise ValueError(f"{self.folder} has no episode {episode} of {task_id} in step {step}")
        return _record(rows[0], self._group(rows[0]))

    def read_step(self, step: int, *, held_out: bool = False) -> Iterator[EpisodeRecord]:
        """All episodes of a step, group after group."""
        return self._each({"episodes.step = ?": step, "groups.held_out = ?": held_out})

    def decode(self, ids: Any) -> list[str]:
        """The text of each token."""
        return self._texts.of(ids)

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.folder / "tokenizer")

    def _text(self, episode: EpisodeRecord) -> str:
        """What all its conversations say; those that another begins with, once."""
        inner = set(episode.parent.tolist())
        ends = [call for call in episode.calls if call.leaf not in inner]
        return "\n".join(self._texts.whole(episode.ids[call.path]) for call in ends)

    def _each(self, given: Mapping[str, Any]) -> Iterator[EpisodeRecord]:
        """Page after page, so that nobody who writes waits for a reader; each group read once."""
        group, place, offset = None, None, 0
        while rows := self._page(given, offset):
            for row in rows:
                if (row.step, row.place) != place:
                    place, group = (row.step, row.place), self._group(row)
                yield _record(row, group)
            offset += len(rows)

    def _page(self, given: Mapping[str, Any], offset: int) -> list[EpisodeRow]:
        with self._index() as connection:
            return self._rows(connection, given, PAGE, offset)

    def _rows(
        self, connection: sqlite3.Connection, given: Mapping[str, Any], limit: int, offset: int
    ) -> list[EpisodeRow]:
        names = dict(connection.execute("SELECT id, name FROM metric_names"))
        where = " AND ".join(given) or "TRUE"
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM episodes JOIN groups USING (step, place) WHERE {where} "
            "ORDER BY episodes.step, episodes.place, episode LIMIT ? OFFSET ?",
            (*given.values(), limit, offset),
        )
        return [_row(row, names) for row in rows]

    def _group(self, row: EpisodeRow) -> StoredGroup:
        where = f"step {row.step}, task {row.task_id}, in {self.folder}"
        try:
            with self._index() as connection:
                ((offset, length),) = connection.execute(
                    "SELECT offset, length FROM groups WHERE step = ? AND place = ?",
                    (row.step, row.place),
                )
            with index.step_path(self._rollouts, row.step).open("rb") as file:
                file.seek(offset)
                return unpack(decompress(file.read(length)))
        except (OSError, ValueError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from error

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
        if not isinstance(config, dict):
            raise ValueError(f"{self.folder} is not the folder of a run: {path} holds no object")
        return config


class _GrowingRows:
    """The rows of a JSONL file that grows; only what is new is read."""

    def __init__(self, path: Path):
        self._path, self._lock = path, Lock()
        self._inode, self._offset = 0, 0
        self._rows: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        with self._lock:
            if self._path.exists():
                with self._path.open("rb") as file:
                    self._read(file)
            return list(self._rows)

    def _read(self, file: BinaryIO) -> None:
        now = os.fstat(file.fileno())
        # A run that was resumed has another file, cut back.
        if now.st_ino != self._inode or now.st_size < self._offset:
            self._inode, self._offset, self._rows = now.st_ino, 0, []
        file.seek(self._offset)
        for line in file:
            # The last may be half written.
            if not line.endswith(b"\n"):
                break
            try:
                self._rows.append(json.loads(line))
            except ValueError as error:
                number = len(self._rows) + 1
                raise ValueError(f"{self._path}, line {number}, is no JSON: {error}") from error
            self._offset += len(line)


def _row(row: tuple, names: Mapping[int, str]) -> EpisodeRow:
    values = dict(zip(COLUMN_NAMES, row, strict=True))
    by_agent, metrics = values.pop("rewards"), json.loads(values.pop("metrics") or "{}")
    success, milliseconds = values.pop("success"), values.pop("milliseconds")
    return EpisodeRow(
        **{
            **values,
            "held_out": bool(values["held_out"]),
            "reward": json.loads(by_agent) if by_agent else values["reward"],
            "success": None if success is None else bool(success),
            "metrics": {names[int(number)]: value for number, value in metrics.items()},
            "seconds": milliseconds / 1000,
        }
    )


def _record(row: EpisodeRow, group: StoredGroup) -> EpisodeRecord:
    """One episode's own part of its group's tree."""
    stored = [call for call in group.calls if call.episode == row.episode]
    belongs = np.zeros(len(group.ids), bool)
    for call in stored:
        belongs[call.path] = True
    positions = belongs.nonzero()[0].astype(np.int32)
    parent = group.parent[positions]
    place = np.searchsorted(positions, parent).astype(np.int32)
    ids = group.ids[positions]
    calls = [_call(call, np.searchsorted(positions, call.path), ids) for call in stored]
    return EpisodeRecord(
        row=row,
        ids=ids,
        parent=np.where(parent < 0, np.int32(-1), place),
        depth=group.depth[positions],
        calls=calls,
        **_shown(calls, len(ids)),
    )


def _call(call: StoredCall, path: np.ndarray, ids: np.ndarray) -> CallRecord:
    nothing = np.full(len(call.sampler_logprobs), np.nan, np.float32)
    loss = call.trained
    return CallRecord(
        agent=call.agent,
        path=path,
        start=call.start,
        prompt_ids=ids[path[: call.start]],
        completion_ids=ids[path[call.start :]],
        finish_reason=call.finish_reason,
        under_grammar=call.under_grammar,
        why_forked=call.why_forked,
        in_loss=loss is not None,
        advantage=None if loss is None else loss.advantage,
        sampler_logprobs=call.sampler_logprobs,
        trainer_logprobs=nothing if loss is None else loss.trainer_logprobs,
        entropies=nothing if loss is None else loss.entropies,
        weights=nothing if loss is None else loss.weights,
    )


def _shown(calls: list[CallRecord], size: int) -> dict[str, np.ndarray]:
    """What a token shows: of its calls, the first that was in the loss, else the first of all."""
    shown = {
        name: np.full(size, np.nan, np.float32)
        for name in ("sampler_logprob", "trainer_logprob", "entropy", "advantage", "weight")
    }
    in_loss = np.zeros(size, bool)
    # What is written last is what shows.
    for call in sorted(reversed(calls), key=lambda call: call.in_loss):
        at = call.path[call.start :]
        shown["sampler_logprob"][at] = call.sampler_logprobs
        if call.in_loss:
            in_loss[at] = True
            shown["trainer_logprob"][at] = call.trainer_logprobs
            shown["entropy"][at] = call.entropies
            shown["advantage"][at] = call.advantage
            shown["weight"][at] = call.weights
    return {"in_loss": in_loss, **shown}
