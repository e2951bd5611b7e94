r"""Any environment by its name, on two CPU cores, with nothing to download.

    python train.py --exp environment --env 'gymnasium:FrozenLake-v1?is_slippery=false'

Without `--model.path` the model is a tiny one, made on the first run from the best games of players
that drew among the legal actions: it has the manners, and little of the skill.
"""

import asyncio
import json
from pathlib import Path

from agentrl.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from agentrl.environments.agent import play
from agentrl.environments.named import environment
from agentrl.environments.random_play import Played, random_play
from agentrl.tasks import environment as of_environment
from agentrl.types import Report, Task
from experiments.tiny_model import Recipe, make_tiny_model

GAMES, AT_ONCE = 4096, 256
"""Played at random; of those that differ the best quarter is learned from, its best the most."""
RECIPE = Recipe(steps=120, batch=16)
UNNAMED = "no environment is named: give --env, such as gymnasium:FrozenLake-v1"


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.env is None:
        raise ValueError(UNNAMED)
    return of_environment.load(data.env, data)


def make_model(report: Report, data: DataConfig) -> Path:
    train, _ = tasks(data)
    try:
        played = asyncio.run(_random_games(train, data.env, report))
    except RuntimeError as error:
        raise ValueError(f"no game can be played at random ({error}): give --model.path") from error
    if not any(m.get("tool_calls") or m["content"] for _, game, _ in played for m in game[1::2]):
        raise ValueError(f"{data.env} lists no legal actions to draw from: give --model.path")
    different = {json.dumps(messages): (reward, messages) for reward, messages, _ in played}
    ranked = [messages for _, messages in sorted(different.values(), key=lambda one: -one[0])]
    best = ranked[: -(-len(ranked) // 4)]
    return make_tiny_model(RECIPE, best + 3 * best[: len(best) // 4], played[0][2], report)


async def _random_games(train: list[Task], name: str, report: Report) -> list[Played]:
    played = []
    async with environment(name) as world:
        for first in range(0, GAMES, AT_ONCE):
            report(first / GAMES, "games at random")
            wanted = [train[i % len(train)] for i in range(first, first + AT_ONCE)]
            played += await random_play(world, wanted, RECIPE.seed + first)
    return played


config = Config(
    workflow=play,
    tasks=tasks,
    make_model=make_model,
    steps=20,
    tasks_per_step=16,
    group_size=8,
    micro_batch_tokens=1024,
    model=ModelConfig(max_model_len=1024),
    sampling=SamplingConfig(max_tokens=16),
    optim=OptimConfig(
        lr=8e-4, warmup_steps=2, final_lr_share=0.05, betas=(0.9, 0.99), max_grad_norm=0.3
    ),
    eval=EvalConfig(every=10, num_tasks=200),
)
