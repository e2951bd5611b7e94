"""Ready agent: plays any environment, by text or by tools, over as many turns as that takes."""

from typing import Any

import openai

from agentrl.agents.contract import WorkflowOutput
from agentrl.environments.game import game
from agentrl.environments.named import environment
from agentrl.environments.player import ModelPlayer, Player
from agentrl.types import Task


async def play(task: Task, model: Any, auxiliary_models: dict[str, Any]) -> WorkflowOutput:
    """An episode in the world that ``task["env"]`` names.

    Each player is the agent of that name, or the auxiliary model of that name, where there is one.
    A reward goes to the call that earned it, and their sum is the player's.
    """

    def new_player(name: str) -> Player:
        return ModelPlayer(
            auxiliary_models.get(name) or model.agent(name), name not in auxiliary_models
        )

    async with environment(task["env"]) as world:
        try:
            players: dict[str, Player] = {}
            seen = await game(world, task, model.seed, new_player, players)
            success = seen.success if seen.done else bool(seen.success)
        except openai.BadRequestError:
            # A conversation that has become too long ends the game as it stands.
            if not model.context_full:
                raise
            success = False
    agents = {name: player for name, player in players.items() if player.is_agent}
    totals, said = ({n: getattr(p, what) for n, p in agents.items()} for what in ("total", "said"))
    return WorkflowOutput(
        reward=None if None in totals.values() else _only(totals),
        response=_only(said),
        success=success,
        metrics={"turns": float(sum(player.turns for player in players.values()))},
    )


def _only(values: dict[str, Any]) -> Any:
    """Those of several players by name, or the one of one."""
    return next(iter(values.values())) if len(values) == 1 else values or None
