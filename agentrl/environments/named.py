"""Environments by name: ``NAME:WHAT``, ``package.module:Class`` or ``path/file.py:Class``."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agentrl.callables import Named, load_named, underlying
from agentrl.environments.process import EnvironmentProcess
from agentrl.environments.protocol import Environment, settled
from agentrl.environments.query import with_options
from agentrl.types import Task

PACKAGE = "agentrl.environments"
NUM_TRAIN, NUM_HELD_OUT = 4000, 500
"""Seeds, of a world that has no tasks of its own."""


def load_environment(name: str) -> Callable[[], Environment]:
    """What makes worlds of a name. Raises ValueError, in a sentence, where there is none."""
    found = load_named(name, PACKAGE)
    is_ours = isinstance(found, Named)
    return with_options(found.load, found.__qualname__) if is_ours else found


@asynccontextmanager
async def environment(name: str) -> AsyncIterator[Any]:
    """A world of its own for an episode, all of whose methods are async here."""
    make = load_environment(name)
    # A class, or a partial of one; what a function makes is not known before it is called.
    is_async = inspect.iscoroutinefunction(getattr(underlying(make), "step", None))
    world = make() if is_async else await EnvironmentProcess.start(name)
    try:
        yield world
    finally:
        if hasattr(world, "close"):
            await world.close()


async def tasks_of(name: str) -> tuple[list[Task], list[Task]]:
    """Train and held-out rows: a world's own; or seeds, each of which is a game."""
    async with environment(name) as world:
        own = await settled(world.tasks()) if hasattr(world, "tasks") else None
    seeds = range(NUM_TRAIN), range(NUM_TRAIN, NUM_TRAIN + NUM_HELD_OUT)
    return own or tuple([{"seed": seed} for seed in some] for some in seeds)
