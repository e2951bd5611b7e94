"""Curriculum: tasks are drawn by their success so far; too easy and too hard ones are left out.

A task is drawn in proportion to p * (1 - p) (learnability, arXiv 2408.15099), p the share of its
episodes that succeeded, one of two to begin with. As seams of a config, which both go on bit for
bit where a run is resumed:

    curriculum = Curriculum(easiest=0.9)
    config = Config(..., batches=curriculum, after_step=curriculum.learn)
"""

from collections.abc import Callable, Sequence
from heapq import nlargest
from random import Random
from typing import Any

from agentrl.config import Config
from agentrl.tasks.batches import task_batches
from agentrl.types import Task


class Curriculum:
    """What is known of tasks, and the seams ``batches`` and ``after_step``."""

    def __init__(
        self,
        kind: Callable[[Task], str] = lambda task: str(task["id"]),
        *,
        hardest: float = 0.0,
        easiest: float = 1.0,
        tried: int = 8,
    ):
        """kind: tasks of one kind are counted together. hardest, easiest: where so small or so
        large a share of at least ``tried`` episodes succeeded, it is drawn only for want of others.
        """
        self.kind, self.hardest, self.easiest, self.tried = kind, hardest, easiest, tried
        self.counts: dict[str, list[int]] = {}
        """Episodes that succeeded, and all, of each kind."""

    def __call__(self, tasks: Sequence[Task], config: Config) -> "CurriculumBatches":
        return CurriculumBatches(self, tasks, config)

    def learn(self, moment: Any) -> None:
        """Count a step's groups; see ``runs.seams.Moment``."""
        for group in moment.groups:
            solved, tried = self.counts.get(self.kind(group.task), (0, 0))
            solved += sum(bool(episode.success) for episode in group.scored)
            self.counts[self.kind(group.task)] = [solved, tried + len(group.scored)]

    def rank(self, task: Task, rng: Random) -> tuple[bool, float]:
        """The highest are drawn: a weighted draw without replacement, by u ** (1 / weight)."""
        solved, tried = self.counts.get(self.kind(task), (0, 0))
        weight = (solved + 1) * (tried - solved + 1) / (tried + 2) ** 2
        is_known = tried >= self.tried
        is_wanted = not is_known or self.hardest < solved / tried < self.easiest
        return is_wanted, rng.random() ** (1 / weight)

    def state(self) -> dict[str, list[int]]:
        return dict(self.counts)

    def load_state(self, state: dict[str, list[int]]) -> None:
        self.counts = dict(state)


class CurriculumBatches(Sequence):
    """The tasks of each step, as many steps as there would be; drawn when they are asked for."""

    def __init__(self, curriculum: Curriculum, tasks: Sequence[Task], config: Config):
        self.curriculum, self.tasks, self.config = curriculum, tasks, config
        self.num_steps = len(task_batches(tasks, config))

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> list[Task]:
        if step >= self.num_steps:
            raise IndexError(step)
        rng = Random(f"{self.config.seed}-{step}")
        ranks = [self.curriculum.rank(task, rng) for task in self.tasks]
        chosen = nlargest(self.config.tasks_per_step, range(len(ranks)), key=ranks.__getitem__)
        return [self.tasks[i] for i in chosen]
