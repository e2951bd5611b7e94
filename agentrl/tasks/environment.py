"""Tasks of an environment: ``environment:gymnasium:FrozenLake-v1``. Its own rows; or seeds, each of
which is a game."""

import asyncio

from agentrl.config import DataConfig
from agentrl.environments.named import own_tasks
from agentrl.types import Task

NUM_TRAIN, NUM_HELD_OUT = 4000, 500
"""Seeds."""


def load(what: str, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Raises ValueError, in a sentence, where there is no such world."""
    found = asyncio.run(own_tasks(what)) or (
        [{"seed": seed} for seed in range(NUM_TRAIN)],
        [{"seed": seed} for seed in range(NUM_TRAIN, NUM_TRAIN + NUM_HELD_OUT)],
    )
    return tuple([{"env": what, **row} for row in rows] for rows in found)
