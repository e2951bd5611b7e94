"""Reasoning Gym's tasks, one turn each: ``reasoning-gym:countdown?min_numbers=3``.

Options are its data set's; of ``size`` items the last tenth is held out. Its scorers run what a
model wrote as Python, some of which never ends: so this class lives in the trainer's process, which
never imports the package; items are made and answers scored in sandboxes that have imported it.
"""

import json
import re
import secrets
from typing import Any

from agentrl.agents.tools import PythonTool
from agentrl.environments.protocol import Action, Observation
from agentrl.environments.requirement import required
from agentrl.sandbox.limits import Limits
from agentrl.types import Task

LISTS = r"""[\w\s\[\],'"-]*"""
SUMS = r"(\d|\.(?=\d)|\b([A-Za-z]|a?(sin|cos|tan)h?|exp|log|ln|sqrt|pi)\b|[-+*/()^,\s])*"
EXECUTED = {
    **dict.fromkeys(("binary_matrix", "spiral_matrix", "string_insertion", "n_queens"), LISTS),
    **dict.fromkeys(("countdown", "puzzle24", "polynomial_multiplication"), SUMS),
    **dict.fromkeys(("simple_integration", "intermediate_integration"), SUMS),
}
"""What answers may consist of where they are executed: nothing is called, or numbers' functions
alone. What remains is to compute for ever. Behind this stands the sandbox; who came through both
would be in the process that prints the verdict, could read its nonce, and give any."""
MAKING = Limits(seconds=900.0, memory_mib=4096, output_bytes=256 << 20)
MAKE = """
import json, reasoning_gym
made = reasoning_gym.create_dataset({name!r}, **{options!r})
items = [(item["question"], item["answer"], repr(item["metadata"])) for item in made]
print("\\n" + json.dumps(items))
"""
"""On a line of its own: some print while they are made."""
SCORE = """
import numpy as np, reasoning_gym, signal
made = reasoning_gym.create_dataset({name!r}, **{options!r})
item = dict(question={task[question]!r}, answer={task[answer]!r}, metadata={task[metadata]})
print({nonce!r})
signal.setitimer(signal.ITIMER_PROF, 1)
print({nonce!r}, float(made.score_answer(answer={given!r}, entry=item)))
"""
"""Ended by the kernel, also within C; of its own time, so that a busy machine takes none of it."""
ASKED = "\n\nEnd with <answer>your answer</answer>."


class ReasoningGym:
    _python = PythonTool(seconds=30.0, workers=4, preload=["reasoning_gym"])

    def __init__(self, name: str, /, **options: Any):
        required("reasoning_gym", "reasoning-gym==0.1.25", is_here=False)
        self._name, self._options = name, {"seed": 42, "size": 1000, **options}

    async def tasks(self) -> tuple[list[Task], list[Task]]:
        """Each has three other items' answers, to draw from."""
        code = MAKE.format(name=self._name, options=self._options)
        made = await self._python.outcome(code, MAKING)
        *_, last = made.output.rstrip().split("\n")
        if made.ended_by or not last.startswith("["):
            raise ValueError(f"reasoning-gym:{self._name}: {made.ended_by or last}")
        items, rows = json.loads(last), []
        for i, (question, answer, metadata) in enumerate(items):
            # Some of the integrals it could not solve itself.
            if answer is None or self._may_be(answer):
                drawn = [items[(i + j) % len(items)][1] for j in range(4)]
                own = {"question": question, "answer": answer, "metadata": metadata}
                rows.append({**own, "drawn": drawn, "seed": self._options["seed"], "index": i})
        num_train = len(rows) - len(rows) // 10
        return rows[:num_train], rows[num_train:]

    async def reset(self, task: Task, seed: int) -> Observation:
        self._task, listed = task, [text for text in task["drawn"] if text is not None]
        return Observation(text=task["question"] + ASKED, actions=listed)

    async def step(self, action: Action) -> Observation:
        said = str(action)
        given = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL) or [said]
        score = await self._score(given[-1].strip())
        return Observation(text="", reward=score, done=True, success=score >= 1)

    def _may_be(self, answer: str) -> bool:
        return bool(re.fullmatch(EXECUTED.get(self._name, r"(?s:.*)"), answer))

    async def _score(self, given: str) -> float:
        """0 also for what takes more than a second to score. RuntimeError: none can be given."""
        if not self._may_be(given):
            return 0.0
        about = {"name": self._name, "options": {**self._options, "seed": self._task["seed"]}}
        nonce = secrets.token_hex()
        code = SCORE.format(**about, task=self._task, given=given, nonce=nonce)
        said = (await self._python.outcome(code)).output
        if nonce not in said:
            raise RuntimeError(f"no answer to this item can be scored: {said[:300]}")
        found = re.search(rf"{nonce} (\S+)$", said, re.MULTILINE)
        return float(found[1]) if found else 0.0


load = ReasoningGym
