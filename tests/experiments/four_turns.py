"""Four turns with a reward each: how presets credit a turn, with one tiny model and real vLLM.

    python -m bench.presets tests/experiments/four_turns.py --measure eval/turns/right --presets ...

A chain of four sums. Each turn asks in a prompt of its own for a number more or less than what the
turns before came to, and is worth a quarter where it calls the tool with the right code; what was
wrong, the next does not build on. All presets optimise the same sum of the four, but they read it
in different ways. It is the episode's reward, of the parts ``earlier`` and ``last``, for GRPO, tree
credit and the outcome of ``turns``. ``gigpo`` and ``turns`` by returns add up the rewards of calls
themselves, and get none from the episode (``--algorithm.part-weights earlier=0 last=0``); what
``multi_step_grpo`` adds to it is the last call's (``--algorithm.part-weights last=0``).
"""

import json
import random
from dataclasses import replace

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.tools import PYTHON_TOOL
from agentrl.config import DataConfig, EvalConfig
from agentrl.types import Task
from experiments import gsm8k_offline
from experiments.gsm8k.agent import SYSTEM

MORE, LESS = (question for question, _ in gsm8k_offline.TEMPLATES[:2])


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    rng = random.Random(0)
    train, held_out = ([make_task(rng, f"{kind} {i}") for i in range(500)] for kind in ("t", "h"))
    return train, held_out


def make_task(rng: random.Random, name: str) -> Task:
    """Two numbers more and two less, from 12 on: none leaves what the model has seen."""
    steps = [sign * rng.randint(2, 4) for sign in rng.sample([1, 1, -1, -1], 4)]
    (n, m), t = rng.sample(gsm8k_offline.NAMES, 2), rng.choice(gsm8k_offline.THINGS)
    return {"id": name, "start": 12, "steps": steps, "said": {"n": n, "m": m, "t": t}}


async def play(task, model) -> WorkflowOutput:
    value, rights = task["start"], []
    for turn, step in enumerate(task["steps"]):
        model.state(f"{turn}: {value}")
        rights.append(await takes(step, value, task["said"], model))
        model.reward(rights[-1] / 4)
        value += rights[-1] * step
    return WorkflowOutput(
        parts={"earlier": sum(rights[:3]) / 4, "last": rights[3] / 4},
        success=all(rights),
        metrics={"turns/right": sum(rights) / 4},
    )


async def takes(step: int, value: int, said: dict[str, str], model) -> bool:
    """Whether the model writes the step down as code that prints it."""
    question = (MORE if step > 0 else LESS).format(**said, a=value, s=value, b=abs(step))
    completion = await model.openai.chat.completions.create(
        model=model.name,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        tools=[PYTHON_TOOL],
    )
    called = [c.function.arguments for c in completion.choices[0].message.tool_calls or ()]
    return called == [json.dumps({"code": f"print({value}{step:+})"})]


config = replace(
    gsm8k_offline.config,
    workflow=play,
    judge=None,
    tasks=tasks,
    steps=12,
    tasks_per_step=4,
    sampling=replace(gsm8k_offline.config.sampling, max_tokens=32),
    eval=EvalConfig(every=3, num_tasks=64),
)
