r"""Frozen lake: many moves to a goal over ice with holes; two cores, no download.

    python train.py --exp frozen_lake
    python train.py --exp frozen_lake --algorithm turns           # credit by turns
    python train.py --exp frozen_lake --algorithm tree_loo        # by who came to the same point

Gymnasium's lake (``pip install gymnasium==1.4.0``) on maps of our own, told in words: half of them
4 x 4 and dry, half 6 x 6 and slippery, which are evaluated apart. The goal alone is a success, and
worth 1. Of the transcripts that the tiny model starts from, some have moves that were only drawn.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from agentrl.config import DataConfig, EvalConfig, SamplingConfig
from agentrl.environments.gymnasium import Gymnasium
from agentrl.environments.protocol import Observation
from agentrl.environments.requirement import required
from agentrl.types import Message, Report, Task
from experiments import environment
from experiments.tiny_model import Recipe, make_tiny_model

PIP = "gymnasium==1.4.0"
gymnasium, lakes = (
    required(module, PIP) for module in ("gymnasium", "gymnasium.envs.toy_text.frozen_lake")
)

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""Rows and columns of each move, in Gymnasium's order."""
CELLS = {"S": "ice", "F": "ice", "H": "hole", "G": "goal"}
SIDES = {"dry": 4, "slippery": 6}
MOST_MOVES = 24
STEADY = 0.8
"""How often a move on slippery ice goes where it should; else it goes to either side."""


class Lake(Gymnasium):
    """Gymnasium's lake on the task's map; of where one stands, what is around is told."""

    def __init__(self):
        super().__init__("FrozenLake-v1")

    def reset(self, task: Task, seed: int) -> Observation:
        self._world, self._map = make_lake(task), task["map"]
        told = f"Go from S to G over {task['ice']} ice, around the holes H. {self._asked}"
        first = super().reset(task, seed)
        rows = [told, *map(" ".join, self._map), self._shown(self.state)]
        return replace(first, text="\n".join(rows))

    def _shown(self, seen: int) -> str:
        self.state, side = int(seen), len(self._map)
        row, column = divmod(self.state, side)
        around = [f"{m} {self._cell(row + down, column + on)}" for m, (down, on) in MOVES.items()]
        return f"{', '.join(around)}; goal {side - 1 - row} down {side - 1 - column} right"

    def _cell(self, row: int, column: int) -> str:
        is_inside = min(row, column) >= 0 and max(row, column) < len(self._map)
        return CELLS[self._map[row][column]] if is_inside else "edge"


def make_lake(task: Task) -> "gymnasium.Env":
    return gymnasium.make(
        "FrozenLake-v1",
        desc=task["map"],
        is_slippery=task["ice"] == "slippery",
        success_rate=STEADY,
        max_episode_steps=MOST_MOVES,
    )


def maps(ice: str, seed: int, held_out: bool) -> Iterator[Task]:
    """Endlessly many with a way to the goal; a map's checksum says on which side it stands."""
    rng, seen = random.Random(seed), set()
    while True:
        rows = lakes.generate_random_map(SIDES[ice], seed=rng.getrandbits(32))
        name = "/".join(rows)
        if name not in seen and (zlib.crc32(name.encode()) % 4 == 0) == held_out:
            seen.add(name)
            yield {"id": f"{ice} {name}", "ice": ice, "map": rows}


def tasks(data: DataConfig) -> tuple[list[Task], dict[str, list[Task]]]:
    train = [task for ice in SIDES for task in islice(maps(ice, 1, False), 1000)]
    return train, {ice: [*islice(maps(ice, 2, True), 200)] for ice in SIDES}


def best_moves(task: Task) -> list[list[str]]:
    """The move of each turn from each cell, by value iteration from the last turn back."""
    odds, rewards = chances(task)
    values, plan = np.zeros(len(rewards)), []
    for _ in range(MOST_MOVES):
        # Where all ways are sure to lead to the goal, the shortest is the best.
        of_moves = rewards + 0.999 * odds @ values
        values = of_moves.max(1)
        plan.insert(0, [[*MOVES][move] for move in of_moves.argmax(1)])
    return plan


def chances(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell and move: how likely it leads to each cell where one goes on, and its reward."""
    table = make_lake(task).unwrapped.P
    odds = np.zeros((len(table), len(MOVES), len(table)))
    rewards = np.zeros((len(table), len(MOVES)))
    for cell, moves in table.items():
        for move, ends in moves.items():
            for chance, to, reward, is_end in ends:
                odds[cell, move, to] += chance * (not is_end)
                rewards[cell, move] += chance * reward
    return odds, rewards


def transcript(task: Task, rng: random.Random) -> list[Message]:
    world, messages = Lake(), []
    best = best_moves(task) if rng.random() < GOOD else None
    seen = world.reset(task, rng.getrandbits(32))
    while not seen.done:
        said = best[len(messages) // 2][world.state] if best else rng.choice([*MOVES])
        messages.append({"role": "user", "content": seen.text})
        messages.append({"role": "assistant", "content": said})
        seen = world.step(said)
    return messages


def make_model(report: Report) -> Path:
    rng, pairs = random.Random(3), zip(*(maps(ice, 4, False) for ice in SIDES), strict=True)
    source = islice(chain.from_iterable(pairs), RECIPE.transcripts)
    transcripts = [transcript(task, rng) for task in source]
    return make_tiny_model(RECIPE, transcripts, [], report)


GOOD = 0.5
"""The share of transcripts that are played well."""
RECIPE = Recipe(transcripts=4000, steps=150, batch=24)

config = replace(
    environment.config,
    tasks=tasks,
    make_model=make_model,
    steps=24,
    micro_batch_tokens=2048,
    data=DataConfig(env="experiments.frozen_lake:Lake"),
    sampling=SamplingConfig(max_tokens=8),
    eval=EvalConfig(every=12, num_tasks=200),
)
