r"""Werewolf for nine, one side trained against the other as it was at the start; two cores, no
download.

    python train.py --exp werewolves                # the wolves learn, the village stays as it is
    python train.py --exp werewolves_village        # the other way round

Whoever plays for a side is the agent of its name, or the auxiliary model of its name, which nothing
trains; each player has a conversation of his own. The rules are in ``game``. An answer that names
nothing of what is offered has no effect and costs 0.05; success is that the trained side wins. The
tiny model starts from games of a ``script`` in which many pass where they should choose, and choose
their own where they should spare them.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from agentrl.agents.contract import WorkflowOutput
from agentrl.algorithms.turns import Turns
from agentrl.config import (
    AuxiliaryModel,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
)
from agentrl.tasks.jsonl import read_folder, with_id
from agentrl.types import Message, Report, Task
from experiments.tiny_model import Recipe, make_tiny_model
from experiments.werewolves.game import ROLES, SIDES, VILLAGE, WOLVES, Werewolf, chosen
from experiments.werewolves.script import WerewolfScript

SYSTEM = (
    "You play werewolf: three wolves, seer, witch, hunter, three villagers. Speak in a few words. "
    "Else answer with one word or number of those that are named last."
)
REFUSED = -0.05
"""What an answer costs that names nothing of what is offered."""
NUM_HELD_OUT = 400


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Who has which role: 10,080 ways, of which some are held out."""
    if data.path:
        return read_folder(data, required=("roles",))
    rows = [with_id({"roles": " ".join(roles)}) for roles in _castings()]
    random.Random(0).shuffle(rows)
    return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]


def _castings(left: tuple[str, ...] = ROLES) -> Iterator[list[str]]:
    """Every different order of some roles.

    >>> [*_castings(("wolf", "seer", "wolf"))][:2]
    [['seer', 'wolf', 'wolf'], ['wolf', 'seer', 'wolf']]
    """
    if not left:
        yield []
    for role in sorted({*left}):
        others = [*left]
        others.remove(role)
        yield from ([role, *rest] for rest in _castings(tuple(others)))


async def play(task: Task, model, auxiliary_models) -> WorkflowOutput:
    players = {side: auxiliary_models.get(side) or model.agent(side) for side in SIDES}
    conversations = defaultdict(lambda: [{"role": "system", "content": SYSTEM}])

    async def answer(player, text, offered) -> str:
        messages, own = conversations[player], players[game.side(player)]
        messages.append({"role": "user", "content": text})
        reply = await own.openai.chat.completions.create(model=own.name, messages=messages)
        said = reply.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": said})
        if own is not auxiliary_models.get(game.side(player)) and offered:
            own.reward(REFUSED * (chosen(said, offered) is None))
        return said

    game = Werewolf(task["roles"].split(), answer, random.Random(model.seed))
    winner = await game.play()
    trained = [side for side in SIDES if side not in auxiliary_models]
    return WorkflowOutput(
        reward={side: (side == winner) + REFUSED * game.refused[side] for side in trained},
        success=winner == trained[0],
        metrics=measured(game, trained[0]),
    )


def measured(game: Werewolf, side: str) -> dict[str, float]:
    """How long a game was, and a side's habits: what it was refused, votes against its own."""
    votes = [game.side(out) == side for voter, out in game.votes if game.side(voter) == side]
    return {
        "days": float(game.days),
        "habit/refused": game.refused[side] / max(1, game.asked[side]),
        "habit/own_voted": sum(votes) / max(1, len(votes)),
    }


def scripted_game(roles: str, rng: random.Random) -> list[list[Message]]:
    """The conversations of nine players of the script."""
    players = [
        WerewolfScript(SKILL[WOLVES if r == "wolf" else VILLAGE], rng) for r in roles.split()
    ]
    conversations = [[{"role": "system", "content": SYSTEM}] for _ in players]

    async def answer(player, text, offered) -> str:
        said = players[player - 1].answer(text, offered)
        conversations[player - 1] += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": said},
        ]
        return said

    asyncio.run(Werewolf(roles.split(), answer, rng).play())
    return [spoken for spoken in conversations if len(spoken) > 1]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    train, _ = tasks(DataConfig())
    spoken: list[list[Message]] = []
    while len(spoken) < RECIPE.transcripts:
        spoken += scripted_game(rng.choice(train)["roles"], rng)
    return make_tiny_model(RECIPE, spoken, [], report)


SKILL = {WOLVES: 0.2, VILLAGE: 0.5}
RECIPE = Recipe(transcripts=4000, steps=90, batch=16, vocabulary=512)

config = Config(
    workflow=play,
    tasks=tasks,
    make_model=make_model,
    # So that what is refused is the refused call's.
    algorithm=Turns(),
    auxiliary_models={VILLAGE: AuxiliaryModel(model=None, max_model_len=2048)},
    steps=12,
    tasks_per_step=8,
    group_size=8,
    micro_batch_tokens=2048,
    model=ModelConfig(max_model_len=2048),
    sampling=SamplingConfig(max_tokens=12),
    optim=OptimConfig(
        lr=6e-4, warmup_steps=2, final_lr_share=0.05, betas=(0.9, 0.99), max_grad_norm=0.3
    ),
    eval=EvalConfig(every=12, num_tasks=400),
)
