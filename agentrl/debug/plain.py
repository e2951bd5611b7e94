"""Experiment of a model that has none: to talk with it, without tools."""

from agentrl.config import Config, ModelConfig


async def solve(task, model) -> float:
    raise NotImplementedError("there is nothing to solve")


# The model is the one that --chat names.
config = Config(workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="--chat"))
