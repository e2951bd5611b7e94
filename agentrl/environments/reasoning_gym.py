"""Reasoning Gym's tasks, one turn each: ``reasoning-gym:countdown?min_numbers=3``.

Options are its data set's; of ``size`` items the last tenth is held out. This class lives in the
trainer's process, which never imports the package: sandboxes do.
"""

import re
from typing import Any

from agentrl.environments import reasoning_gym_items
from agentrl.environments.protocol import Action, Observation
from agentrl.environments.requirement import required
from agentrl.types import Task

ASKED = "\n\nEnd with <answer>your answer</answer>."


class ReasoningGym:
    def __init__(self, name: str, /, **options: Any):
        required("reasoning_gym", "reasoning-gym==0.1.25", is_here=False)
        self._name, self._options = name, {"seed": 42, "size": 1000, **options}

    async def tasks(self) -> tuple[list[Task], list[Task]]:
        """Each has three other items' answers, to draw from."""
        items, rows = await reasoning_gym_items.make(self._name, self._options), []
        for i, item in enumerate(items):
            # Some of the integrals it could not solve itself.
            if item["answer"] is None or reasoning_gym_items.may_be(self._name, item["answer"]):
                drawn = [items[(i + j) % len(items)]["answer"] for j in range(4)]
                rows.append({**item, "drawn": drawn, "seed": self._options["seed"], "index": i})
        num_train = len(rows) - len(rows) // 10
        return rows[:num_train], rows[num_train:]

    async def reset(self, task: Task, seed: int) -> Observation:
        self._task, listed = task, [text for text in task["drawn"] if text is not None]
        return Observation(text=task["question"] + ASKED, actions=listed)

    async def step(self, action: Action) -> Observation:
        said = str(action)
        given = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL) or [said]
        options = {**self._options, "seed": self._task["seed"]}
        score = await reasoning_gym_items.score(self._name, options, self._task, given[-1].strip())
        return Observation(text="", reward=score, done=True, success=score >= 1)


load = ReasoningGym
