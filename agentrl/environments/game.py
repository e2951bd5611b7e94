"""Game: players act in a world, one after another, until it ends."""

from collections.abc import Callable, Sequence
from typing import Any

from agentrl.environments.player import Player
from agentrl.environments.protocol import Action, Observation, settled
from agentrl.types import Task

MOST_TURNS = 100
"""Of all players together, in a world that sets no end of its own."""
MOST_REFUSED = 3
"""Actions in a row that were none, after which it is over."""


async def game(
    world: Any,
    task: Task,
    seed: int,
    new_player: Callable[[str], Player],
    players: dict[str, Player],
) -> Observation:
    """Play a world to its end, or for MOST_TURNS; players: who has acted, which grows."""
    seen, num_refused = await settled(world.reset(task, seed)), 0
    for _ in range(MOST_TURNS):
        num_refused = num_refused + 1 if seen.is_refused else 0
        if seen.done or num_refused == MOST_REFUSED:
            break
        name = seen.player
        if name not in players:
            players[name] = new_player(name)
        seen = await _act(world, name, await players[name].answer(seen), players)
    return seen


async def _act(
    world: Any, name: str, actions: Sequence[Action], players: dict[str, Player]
) -> Observation:
    """Take the actions of one answer, until another's turn comes."""
    for number, action in enumerate(actions):
        if number:
            players[name].see(seen.text)
        seen = await settled(world.step(action))
        rewards = seen.reward if isinstance(seen.reward, dict) else {name: seen.reward}
        for earner in rewards.keys() & players.keys():
            players[earner].earn(rewards[earner])
        if seen.done or seen.player != name:
            break
    return seen
