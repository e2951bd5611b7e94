"""Tasks of an environment: ``environment:gymnasium:FrozenLake-v1``. Its own rows; or seeds, each of
which is a game."""

import asyncio

from agentrl.config import DataConfig
from agentrl.environments.named import tasks_of
from agentrl.types import Task


def load(what: str, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Raises ValueError, in a sentence, where there is no such world, or it does not answer."""
    try:
        found = asyncio.run(tasks_of(what))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return tuple([{"env": what, **row} for row in rows] for rows in found)
