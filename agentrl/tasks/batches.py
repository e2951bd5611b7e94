"""Batches: the tasks of every step."""

import math
import random
from collections.abc import Sequence

from agentrl.config import Config
from agentrl.types import Task


def find_batches(tasks: Sequence[Task], config: Config) -> Sequence[list[Task]]:
    """The tasks of every step, by the seam ``config.batches`` where there is one; the same on every
    rank. Its length is the number of steps."""
    return (config.batches or task_batches)(tasks, config)


def task_batches(tasks: Sequence[Task], config: Config) -> list[list[Task]]:
    """Each epoch in an order of its own, whole batches only.

    Raises ValueError where there are too few tasks for one.
    """
    size = config.tasks_per_step
    if len(tasks) < size:
        raise ValueError(f"tasks_per_step is {size}, but there are only {len(tasks)} train tasks")
    per_epoch = len(tasks) // size
    epochs = config.epochs or math.ceil((config.steps or 1) / per_epoch)
    batches = []
    for epoch in range(epochs):
        order = random.Random(f"{config.seed}-{epoch}").sample(tasks, len(tasks))
        batches += [order[i * size : (i + 1) * size] for i in range(per_epoch)]
    return batches[: config.steps]
