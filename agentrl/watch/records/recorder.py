"""Writing records while training: one thread, so that the step does not wait for them."""

import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from agentrl.types import Episode, Group, Sample
from agentrl.watch.records.group import Trained, compress, pack
from agentrl.watch.records.index import create, step_path
from kernels.tree import TokenTree, build_tree

WAITING_BATCHES = 4
"""So many may wait to be written; then the step waits, too."""


class RecordsFailed(RuntimeError):
    """What was sampled cannot be written; in a sentence."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the trainer made of the loss terms of a micro-batch, call by call."""

    samples: np.ndarray
    """Which of the batch's samples they are of, in order."""
    values: np.ndarray
    """float32 [3, N]: the trainer's log-probabilities, entropies, the loss's weights."""

    @classmethod
    def of(cls, samples: Tensor, logprobs: Tensor, entropies: Tensor, weights: Tensor) -> "Scores":
        values = torch.stack([logprobs.detach(), entropies.detach(), weights]).float()
        return cls(samples.cpu().numpy(), values.cpu().numpy())


@dataclass(frozen=True, eq=False)
class _Batch:
    step: int
    groups: Sequence[Group]
    samples: Sequence[Sample]
    scores: Sequence[Scores]
    held_out: bool


class Recorder:
    """Writes a run's records in a thread of its own; closing it waits for the last of them."""

    def __init__(self, rollouts: Path, *, writes: bool = True):
        """writes: of several ranks, one does."""
        self._rollouts = rollouts
        self._error: Exception | None = None
        self._waiting: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)
        self.cpu_seconds = 0.0
        """Of the thread, so far."""
        self._thread = threading.Thread(target=self._work, name="records", daemon=True)
        if writes:
            self._thread.start()
        self._writes = writes

    def add(
        self,
        step: int,
        groups: Sequence[Group],
        samples: Sequence[Sample] = (),
        scores: Sequence[Scores] = (),
        *,
        held_out: bool = False,
    ) -> None:
        """Record a step's groups; what was recorded of them before is replaced.

        samples, scores: what was in the loss. held_out: these are an evaluation's.
        Raises RecordsFailed where what was added earlier could not be written.
        """
        if self._writes:
            self._raise_if_failed()
            self._waiting.put(_Batch(step, groups, samples, scores, held_out))

    def flush(self) -> None:
        """Return when all that was added is on the disk; raises RecordsFailed."""
        if self._writes:
            self._waiting.join()
            self._raise_if_failed()

    def close(self) -> None:
        """Write what is left, and end; raises RecordsFailed."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._raise_if_failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What ended the run is told, rather than what came of it.
        with suppress(*([RecordsFailed] if error else [])):
            self.close()

    def _raise_if_failed(self) -> None:
        if self._error is not None:
            raise RecordsFailed(
                f"records cannot be written to {self._rollouts}: {self._error}"
            ) from self._error

    def _work(self) -> None:
        connection = None
        while (batch := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    connection = connection or create(self._rollouts)
                    _write(self._rollouts, connection, batch)
            except Exception as error:
                self._error = error
            finally:
                self.cpu_seconds = time.thread_time()
                self._waiting.task_done()
        if connection is not None:
            connection.close()


def _write(rollouts: Path, connection: sqlite3.Connection, batch: _Batch) -> None:
    trained = _trained(batch.samples, batch.scores)
    key = (batch.step, batch.held_out)
    with connection:
        _forget(connection, *key)
        ((place,),) = connection.execute(
            "SELECT coalesce(max(place) + 1, 0) FROM groups WHERE step = ?", key[:1]
        )
        group_rows, episode_rows = [], []
        path = step_path(rollouts, batch.step)
        with path.open("ab") as file:
            for number, group in enumerate(batch.groups, place):
                tree = build_tree([c.ids for episode in group.episodes for c in episode.calls])
                data = compress(pack(group.episodes, trained, tree.ids, tree.parent, tree.index))
                task_id = str(group.task["id"])
                group_rows.append((*key[:1], number, key[1], task_id, file.tell(), len(data)))
                file.write(data)
                episode_rows += _rows(connection, batch.step, number, group.episodes, tree, trained)
            file.flush()
            os.fsync(file.fileno())
        _sync_entry(rollouts)
        connection.executemany(f"INSERT INTO groups VALUES ({_marks(6)})", group_rows)
        connection.executemany(f"INSERT INTO episodes VALUES ({_marks(13)})", episode_rows)
        connection.execute("INSERT INTO batches VALUES (?, ?)", key)


def _forget(connection: sqlite3.Connection, step: int, held_out: bool) -> None:
    places = "SELECT place FROM groups WHERE step = ?1 AND held_out = ?2"
    connection.execute(
        f"DELETE FROM episodes WHERE step = ?1 AND place IN ({places})", (step, held_out)
    )
    for table in ("groups", "batches"):
        connection.execute(f"DELETE FROM {table} WHERE step = ? AND held_out = ?", (step, held_out))


def _trained(samples: Sequence[Sample], scores: Sequence[Scores]) -> dict[int, Trained]:
    """What was in the loss of each call, by its id."""
    trained = {}
    for part in scores:
        mine = [samples[s] for s in part.samples.tolist()]
        ends = np.cumsum([len(sample.call.completion_ids) for sample in mine])
        for sample, values in zip(mine, np.split(part.values, ends, axis=1)):
            trained[id(sample.call)] = Trained(sample.advantage, *values)
    return trained


def _rows(
    connection: sqlite3.Connection,
    step: int,
    place: int,
    episodes: Sequence[Episode],
    tree: TokenTree,
    trained: dict[int, Trained],
) -> list[tuple]:
    rows, paths = [], iter(tree.index)
    for number, episode in enumerate(episodes):
        seen = np.zeros(len(tree), bool)
        for _ in episode.calls:
            seen[next(paths)] = True
        in_loss = [len(c.completion_ids) for c in episode.calls if id(c) in trained]
        is_by_agent = isinstance(episode.reward, dict)
        rows.append(
            (
                *(step, place, number, episode.status, episode.error),
                None if episode.reward is None else float(episode.mean_reward),
                json.dumps(episode.reward) if is_by_agent else None,
                episode.success,
                _metrics(connection, episode.metrics),
                round(1000 * episode.seconds),
                len(episode.calls),
                int(np.count_nonzero(seen)),
                sum(in_loss),
            )
        )
    return rows


def _metrics(connection: sqlite3.Connection, metrics: dict[str, float]) -> str | None:
    """As JSON; a name, which every episode repeats, becomes its number."""
    numbered = {}
    for name, value in metrics.items():
        connection.execute("INSERT OR IGNORE INTO metric_names (name) VALUES (?)", (name,))
        (row,) = connection.execute("SELECT id FROM metric_names WHERE name = ?", (name,))
        numbered[row[0]] = float(value)
    return json.dumps(numbered, separators=(",", ":")) if numbered else None


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _sync_entry(folder: Path) -> None:
    """A file's name is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
