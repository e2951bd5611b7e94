"""Items of Reasoning Gym, made and scored in sandboxes that have imported it, since its scorers run
what a model wrote as Python, some of which never ends."""

import json
import re
import secrets
from typing import Any

from agentrl.agents.tools import PythonTool
from agentrl.sandbox.limits import Limits

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
items = [
    dict(question=item["question"], answer=item["answer"], metadata=repr(item["metadata"]))
    for item in made
]
print("\\n" + json.dumps(items))
"""
"""On a line of its own: some print while they are made."""
SCORE = """
import numpy as np, reasoning_gym, signal
made = reasoning_gym.create_dataset({name!r}, **{options!r})
item = dict(question={item[question]!r}, answer={item[answer]!r}, metadata={item[metadata]})
print({nonce!r})
signal.setitimer(signal.ITIMER_PROF, 1)
print({nonce!r}, float(made.score_answer(answer={given!r}, entry=item)))
"""
"""Ended by the kernel, also within C; of its own time, so that a busy machine takes none of it."""

sandboxes = PythonTool(seconds=30.0, workers=4, preload=["reasoning_gym"])


async def make(name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Question, answer and metadata of each item of a data set. Raises ValueError by its name."""
    made = await sandboxes.outcome(MAKE.format(name=name, options=options), MAKING)
    *_, last = made.output.rstrip().split("\n")
    if made.ended_by or not last.startswith("["):
        raise ValueError(f"reasoning-gym:{name}: {made.ended_by or last}")
    return json.loads(last)


def may_be(name: str, answer: str) -> bool:
    """Whether a text is scored as an answer at all."""
    return bool(re.fullmatch(EXECUTED.get(name, r"(?s:.*)"), answer))


async def score(name: str, options: dict[str, Any], item: dict[str, Any], given: str) -> float:
    """0 also for what takes more than a second to score. RuntimeError: none can be given."""
    if not may_be(name, given):
        return 0.0
    nonce = secrets.token_hex()
    code = SCORE.format(name=name, options=options, item=item, given=given, nonce=nonce)
    said = (await sandboxes.outcome(code)).output
    if nonce not in said:
        raise RuntimeError(f"no answer to this item can be scored: {said[:300]}")
    found = re.search(rf"{nonce} (\S+)$", said, re.MULTILINE)
    return float(found[1]) if found else 0.0
