"""Writing one batch of episodes: pieces into the step's file, and then the index."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentrl.records.forks import find_forks
from agentrl.records.index import create, step_path, writing
from agentrl.records.piece import Trained, compress, pack
from agentrl.records.text import Texts
from agentrl.types import Call, Episode, Group, Sample
from kernels.tree import build_tree

PIECE_TOKENS = 4096
"""Smaller groups share a piece: whoever reads one of them reads so much, and the prompts that they
have in common stand there once."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the trainer made of the loss terms of a micro-batch, call by call."""

    samples: np.ndarray
    """Which of the batch's samples they are of, in order."""
    values: np.ndarray
    """float32 [3, N]: the trainer's log-probabilities, entropies, the loss's weights."""

    @classmethod
    def of(cls, samples, logprobs: Tensor, entropies: Tensor, **measures: Tensor) -> "Scores":
        values = torch.stack([logprobs.detach(), entropies.detach(), logprobs.detach() * 0]).float()
        return cls(np.asarray(samples), values.cpu().numpy())


@dataclass(frozen=True, eq=False)
class Batch:
    """The episodes of a step, or of its evaluation, and what was in the loss of them."""

    step: int
    groups: Sequence[Group]
    samples: Sequence[Sample]
    scores: Sequence[Scores]
    held_out: bool


class Writer:
    """A run's ``rollouts/``, for one thread to write."""

    def __init__(self, rollouts: Path):
        """Raises ValueError where there are records of another version."""
        self._rollouts, self._index = rollouts, create(rollouts)
        self._metric_names: dict[str, int] = {}

    def close(self) -> None:
        self._index.close()

    def write(self, batch: Batch) -> None:
        """The index announces all of it or nothing; what was recorded of it before is replaced."""
        trained = _trained(batch.samples, batch.scores)
        step, held_out = batch.step, batch.held_out
        with writing(self._index):
            self._forget(step, held_out)
            self._index.execute("INSERT INTO batches VALUES (?, ?)", (step, held_out))
            place, offset = self._first_place(step), _end_of(step_path(self._rollouts, step))
            pieces = []
            for groups in _portions(batch.groups):
                episodes = [episode for group in groups for episode in group.episodes]
                tree = build_tree([call.ids for e in episodes for call in e.calls])
                of_calls = iter(tree.index)
                paths = [[next(of_calls) for _ in episode.calls] for episode in episodes]
                why = [w for e, own in zip(episodes, paths) for w in self._why_forked(e.calls, own)]
                data = compress(pack(episodes, trained, tree.ids, tree.parent, tree.index, why))
                places = range(place, place + len(groups))
                firsts = accumulate((len(group.episodes) for group in groups), initial=0)
                self._insert(
                    "groups",
                    [
                        (step, place, held_out, str(group.task["id"]), offset, len(data), first)
                        for place, group, first in zip(places, groups, firsts)
                    ],
                )
                numbers = [(p, n) for p, g in zip(places, groups) for n in range(len(g.episodes))]
                self._insert("episodes", self._rows(step, numbers, episodes, paths, trained))
                place, offset = places.stop, offset + len(data)
                pieces.append(data)
            self._append(step, b"".join(pieces))

    def _first_place(self, step: int) -> int:
        last = "SELECT coalesce(max(place) + 1, 0) FROM groups WHERE step = ?"
        return self._index.execute(last, (step,)).fetchone()[0]

    def _forget(self, step: int, held_out: bool) -> None:
        which = {"step": step, "held_out": held_out}
        places = "SELECT place FROM groups WHERE step = :step AND held_out = :held_out"
        self._index.execute(
            f"DELETE FROM episodes WHERE step = :step AND place IN ({places})", which
        )
        for table in ("groups", "batches"):
            self._index.execute(
                f"DELETE FROM {table} WHERE step = :step AND held_out = :held_out", which
            )

    def _insert(self, table: str, rows: Sequence[tuple]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            storable = [tuple(map(_storable, row)) for row in rows]
            self._index.executemany(f"INSERT INTO {table} VALUES ({marks})", storable)

    def _rows(
        self,
        step: int,
        numbers: Sequence[tuple[int, int]],
        episodes: Sequence[Episode],
        paths: Sequence[Sequence[np.ndarray]],
        trained: dict[int, Trained],
    ) -> list[tuple]:
        """numbers: of each episode, its group's place, and its own in the group."""
        rows = []
        for (place, number), episode, own in zip(numbers, episodes, paths, strict=True):
            num_tokens = len(np.unique(np.concatenate(own))) if own else 0
            terms = [len(c.completion_ids) for c in episode.calls if id(c) in trained]
            rows.append(
                (
                    *(step, place, number, episode.status, episode.error, *_rewards(episode)),
                    *(episode.success, self._metrics(episode), round(1000 * episode.seconds)),
                    *(len(episode.calls), num_tokens, sum(terms)),
                )
            )
        return rows

    def _why_forked(self, calls: Sequence[Call], paths: Sequence[np.ndarray]) -> list[str | None]:
        """Of an episode's calls."""
        forks = find_forks(calls, paths, lambda ids: self._texts.whole(ids))
        causes = {fork.call: f"{fork.kind}: {fork.why}" for fork in forks}
        return [causes.get(i) for i in range(len(calls))]

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self._rollouts.parent / "tokenizer")

    def _metrics(self, episode: Episode) -> str | None:
        """As JSON; a name, which every episode repeats, becomes its number."""
        if not episode.metrics:
            return None
        numbered = {self._number(_storable(n)): _short(v) for n, v in episode.metrics.items()}
        return json.dumps(numbered, separators=(",", ":"))

    def _number(self, name: str) -> int:
        if name not in self._metric_names:
            self._index.execute("INSERT OR IGNORE INTO metric_names (name) VALUES (?)", (name,))
            found = self._index.execute("SELECT id FROM metric_names WHERE name = ?", (name,))
            self._metric_names[name] = found.fetchone()[0]
        return self._metric_names[name]

    def _append(self, step: int, data: bytes) -> None:
        with step_path(self._rollouts, step).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # A file's name is on the disk when its folder is.
        descriptor = os.open(self._rollouts, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _portions(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups that make a piece together: one, or as many as are small."""
    portion, num_tokens = [], 0
    for group in groups:
        calls = [call for episode in group.episodes for call in episode.calls]
        portion.append(group)
        num_tokens += sum(len(call.completion_ids) for call in calls)
        num_tokens += max((len(call.prompt_ids) for call in calls), default=0)
        if num_tokens >= PIECE_TOKENS:
            yield portion
            portion, num_tokens = [], 0
    if portion:
        yield portion


def _trained(samples: Sequence[Sample], scores: Sequence[Scores]) -> dict[int, Trained]:
    """What was in the loss of each call, by its id."""
    trained = {}
    for part in scores:
        mine = [samples[s] for s in part.samples.tolist()]
        ends = np.cumsum([len(sample.call.completion_ids) for sample in mine], dtype=int)
        pieces = np.split(part.values, ends, axis=1)[:-1]
        for sample, values in zip(mine, pieces, strict=True):
            trained[id(sample.call)] = Trained(sample.advantage, *values)
    return trained


def _end_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _rewards(episode: Episode) -> tuple[float | None, str | None]:
    """The mean over the agents, and each agent's own where they have their own."""
    if episode.reward is None:
        return None, None
    by_agent = isinstance(episode.reward, dict)
    return float(episode.mean_reward), json.dumps(episode.reward) if by_agent else None


def _short(value: float) -> float | int | None:
    """Habits are 0 or 1, which as JSON is shorter than 0.0 or 1.0; and JSON has no NaN."""
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _storable(value: Any) -> Any:
    """Half a surrogate pair, which Python's text may hold, is no text on the disk."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
