"""Gymnasium's worlds: ``gymnasium:FrozenLake-v1?is_slippery=false``, with keywords of its ``make``.

Taxi-v4, CliffWalking-v1 and Blackjack-v1 speak in text, too. What a world draws as ``ansi`` is
shown so, its colours as brackets; of others, the observation itself.
"""

import json
import re
from contextlib import suppress
from typing import Any

from numpy.random import default_rng

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.requirement import required

NAMES = {
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
    "Blackjack": ("stick", "hit"),
}
"""Of actions that are numbers there."""
MARKS = {"4.": r"[\1]", "34": r"(\1)", "35": r"<\1>"}
"""A colour in ``ansi``, and what a cell of that colour becomes."""


class Gymnasium:
    def __init__(self, name: str, /, **options: Any):
        gymnasium = required("gymnasium", "gymnasium==1.4.0")
        modes = gymnasium.make(name).metadata.get("render_modes", ())
        mode = {"render_mode": "ansi"} if "ansi" in modes else {}
        self._world, self._is_drawn = gymnasium.make(name, **mode, **options), bool(mode)
        self._space = self._world.action_space
        numbers = range(self._space.n) if getattr(self._space, "start", None) == 0 else ()
        self._names = NAMES.get(name.partition("-")[0], [*map(str, numbers)])
        how = ", ".join(self._names) or f"{self._space}, in JSON"
        self._asked = f"Answer with one of {how}."

    def reset(self, task: dict, seed: int) -> Observation:
        """The task's seed decides where the game begins, the episode's what chance does in it."""
        seen, _ = self._world.reset(seed=task.get("seed"))
        self._world.unwrapped.np_random = default_rng(seed)
        self._space.seed(seed % 2**32)
        return self._observation(f"{self._asked}\n{self._shown(seen)}")

    def step(self, action: Action) -> Observation:
        number = self._read(str(action))
        if number is None:
            return self._observation(self._asked, is_refused=True)
        seen, reward, ended, out_of_time, _ = self._world.step(number)
        # Falling into a hole is an end, too.
        end = {"done": bool(ended or out_of_time), "success": bool(ended and reward > 0)}
        return self._observation(self._shown(seen), reward=float(reward), **end)

    def _observation(self, text: str, **rest: Any) -> Observation:
        legal = self._names or map(json.dumps, self._space.to_jsonable([self._space.sample()]))
        return Observation(text=text, actions=[*legal], **rest)

    def _read(self, said: str) -> Any:
        """The action that is named last; None where there is none."""
        if self._names:
            found = re.findall(rf"\b(?:{'|'.join(self._names)})\b", said.lower())
            return self._names.index(found[-1]) if found else None
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            read = self._space.from_jsonable([json.loads(said)])[0]
            return read if self._space.contains(read) else None

    def _shown(self, seen: Any) -> str:
        if not self._is_drawn:
            return json.dumps(seen, default=lambda value: value.tolist())
        drawn = self._world.render()
        for colour, mark in MARKS.items():
            drawn = re.sub(rf"\x1b\[{colour}[;\d]*m(.)\x1b\[0m", mark, drawn)
        return re.sub(r"\x1b\[[;\d]*m", "", drawn).strip("\n")


load = Gymnasium
