"""Gymnasium's worlds: ``gymnasium:FrozenLake-v1?is_slippery=false``, with keywords of its ``make``.

Taxi-v4, CliffWalking-v1 and Blackjack-v1 speak in text, too. What a world draws as ``ansi`` is
shown so, its colours as brackets; of others, the observation itself.
"""

import json
import re
from contextlib import suppress
from functools import partial
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.query import parsed
from agentrl.environments.requirement import required

NAMES = {
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
    "Blackjack": ("stick", "hit"),
}
"""Of actions that are numbers there."""
MOST_UNCLEAR = 3
"""Answers in a row that name no action, after which an episode ends."""
MARKS = {"4.": r"[\1]", "34": r"(\1)", "35": r"<\1>"}
"""A colour in ``ansi``, and what a cell of that colour becomes."""


def load(what: str) -> partial:
    return partial(Gymnasium, what)


class Gymnasium:
    def __init__(self, what: str):
        gymnasium = required("gymnasium", "gymnasium==1.4.0")
        name, options = parsed(what)
        modes = gymnasium.make(name).metadata.get("render_modes", ())
        mode = {"render_mode": "ansi"} if "ansi" in modes else {}
        self._world, self._is_drawn = gymnasium.make(name, **mode, **options), bool(mode)
        self._space, self._unclear = self._world.action_space, 0
        self._names = NAMES.get(name.partition("-")[0], ())
        if not self._names and hasattr(self._space, "n"):
            self._names = tuple(map(str, range(self._space.n)))
        self._seeded = gymnasium.utils.seeding.np_random

    def reset(self, task: dict, seed: int) -> Observation:
        """The task's seed decides where the game begins, the episode's what chance does in it."""
        seen, _ = self._world.reset(seed=task.get("seed"))
        self._world.unwrapped.np_random, _ = self._seeded(seed)
        self._space.seed(seed % 2**32)
        return self._observation(f"{self._asked}\n{self._shown(seen)}")

    def step(self, action: Action) -> Observation:
        number = self._read(action)
        if number is None:
            self._unclear += 1
            return self._observation(self._asked, done=self._unclear == MOST_UNCLEAR)
        self._unclear = 0
        seen, reward, ended, out_of_time, _ = self._world.step(number)
        return self._observation(
            self._shown(seen),
            reward=float(reward),
            done=bool(ended or out_of_time),
            # Falling into a hole is an end, too.
            success=bool(ended and reward > 0),
        )

    def close(self) -> None:
        self._world.close()

    def _observation(self, text: str, **rest: Any) -> Observation:
        if not (legal := self._names):
            legal = (json.dumps(self._space.to_jsonable([self._space.sample()])[0]),)
        return Observation(text=text, actions=legal, **rest)

    @property
    def _asked(self) -> str:
        if self._names:
            return f"Answer with one of {', '.join(self._names)}."
        return f"Answer with an action in JSON, one of {self._space}."

    def _read(self, action: Action) -> Any:
        """The action that is named last; None where there is none."""
        if self._names:
            found = re.findall(rf"\b(?:{'|'.join(self._names)})\b", str(action).lower())
            return self._names.index(found[-1]) if found else None
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            read = self._space.from_jsonable([json.loads(str(action))])[0]
            return read if self._space.contains(read) else None

    def _shown(self, seen: Any) -> str:
        if not self._is_drawn:
            return json.dumps(seen, default=lambda value: value.tolist())
        drawn = self._world.render()
        for colour, mark in MARKS.items():
            drawn = re.sub(rf"\x1b\[{colour}[;\d]*m(.)\x1b\[0m", mark, drawn)
        return re.sub(r"\x1b\[[;\d]*m", "", drawn).strip("\n")
