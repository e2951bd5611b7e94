"""Random play: transcripts of players that draw among the legal actions."""

from collections.abc import Sequence
from random import Random
from typing import Any

from agentrl.environments.game import game
from agentrl.environments.player import Player, RandomPlayer
from agentrl.types import Message, Task

Played = tuple[float, list[Message], list[dict]]
"""What a player earned, its conversation, and the tools that it had."""


async def random_play(world: Any, tasks: Sequence[Task], seed: int) -> list[Played]:
    """An episode of each task, and what each of its players made of it."""
    # One in a process of its own is played there.
    if hasattr(world, "random_play"):
        return await world.random_play(tasks, seed)
    rng, played = Random(seed), []
    for task in tasks:
        players: dict[str, Player] = {}
        await game(world, task, rng.getrandbits(63), lambda _: RandomPlayer(rng), players)
        played += [(p.total or 0.0, p.messages, [*p.tools]) for p in players.values()]
    return played
