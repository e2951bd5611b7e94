"""Solver and checker: two agents of one policy, each with its reward; two cores, no download.

The solver writes the expression that solves a word problem. The checker is shown a proposal and
agrees, or writes the expression itself: then its verdict is whether both come to the same. Each
starts with a bad habit: half the time the solver adds up the numbers as they come, and most of the
time the checker agrees without a look.

    python train.py --exp solver_checker
    python train.py --exp solver_checker --trained-agents solver

In every episode the checker judges two proposals: the solver's, and one that the task brings, which
is wrong in exactly every second task. As the solver improves, its proposals leave the checker less
and less to find; ``checker/given``, the accuracy on the tasks' own, stays comparable.
"""

import asyncio
import dataclasses
import random
import re
from itertools import islice
from pathlib import Path

from agentrl.agents.contract import WorkflowOutput
from agentrl.agents.judges.numbers import gold_number
from agentrl.config import DataConfig, EvalConfig, ModelConfig, SamplingConfig
from agentrl.tasks.jsonl import read_folder, with_id
from agentrl.types import Message, Report, Task
from experiments import gsm8k_offline
from experiments.gsm8k_offline import problems
from experiments.tiny_model import Recipe, make_tiny_model

SOLVER = "Write the expression that solves the problem."
CHECKER = "Check the proposal: write the expression yourself, or agree."

OPERATOR, NUMBER = re.compile(r"//|[-+*]"), re.compile(r"[0-9]{1,4}")
MOST_NUMBERS = 6


def value(expression: str) -> int | None:
    """What an expression comes to; None where it is none.

    >>> value("3*4+2"), value("2**9**9"), value("3//0")
    (14, None, None)
    """
    numbers = OPERATOR.split(expression, MOST_NUMBERS)
    if len(numbers) > MOST_NUMBERS or not all(map(NUMBER.fullmatch, numbers)):
        return None
    try:
        return eval(expression)
    # Division by zero; numbers with leading zeros.
    except (ZeroDivisionError, SyntaxError):
        return None


def is_right(proposal: str, task: Task) -> bool:
    return value(proposal) == gold_number(task["answer"])


def hasty(task: Task) -> str:
    """The bad habit's expression: the question's numbers as they come, and wrong.

    >>> hasty({"question": "Tom buys 3 boxes of 12 pens.", "answer": "#### 36"})
    '3+12'
    >>> hasty({"question": "Tom has 3 pens. Ann gives Tom 4 more.", "answer": "#### 7"})
    '3-4'
    """
    numbers = re.findall(r"[0-9]+", task["question"])
    return next(e for e in ("+".join(numbers), "-".join(numbers)) if not is_right(e, task))


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.path:
        return read_folder(data, required=("question", "answer", "given"))
    return tuple(
        [
            with_id({**task, "given": task["expression"] if i % 2 else hasty(task)})
            for i, task in enumerate(islice(problems(seed, held_out=held_out), count))
        ]
        for seed, held_out, count in ((1, False, 4000), (2, True, 500))
    )


async def solve(task, model) -> WorkflowOutput:
    solver, checker = model.agent("solver"), model.agent("checker")
    proposal = await _ask(solver, solver_prompt(task))
    proposals = [proposal, task["given"]]
    said = await asyncio.gather(*(_ask(checker, checker_prompt(task, p)) for p in proposals))
    true = [
        float(accepts(words, proposal) == is_right(proposal, task))
        for words, proposal in zip(said, proposals, strict=True)
    ]
    metrics = {"checker/given": true[1]}
    if not is_right(task["given"], task):
        metrics["habit/waved_through"] = float(accepts(said[1], task["given"]) is True)
    return WorkflowOutput(
        reward={"solver": float(is_right(proposal, task)), "checker": sum(true) / 2},
        metrics=metrics,
    )


async def _ask(model, messages: list[Message]) -> str:
    answer = await model.openai.chat.completions.create(model="policy", messages=messages)
    return answer.choices[0].message.content


def solver_prompt(task: Task) -> list[Message]:
    return [
        {"role": "system", "content": SOLVER},
        {"role": "user", "content": task["question"]},
    ]


def checker_prompt(task: Task, proposal: str) -> list[Message]:
    return [
        {"role": "system", "content": CHECKER},
        {"role": "user", "content": f"{task['question']}\nProposal: {proposal}"},
    ]


def accepts(said: str, proposal: str) -> bool | None:
    """The checker's verdict; None where it says neither thing, which is never true.

    >>> accepts("agree", "3+4"), accepts("4+3", "3+4"), accepts("3*4", "3+4"), accepts("?", "3+4")
    (True, True, False, None)
    """
    if said == "agree":
        return True
    return None if value(said) is None else value(said) == value(proposal)


def transcripts(task: Task, rng: random.Random) -> list[list[Message]]:
    """What a solver and a checker of mixed manners would say of a problem."""
    answer = hasty(task) if rng.random() < 0.5 else task["expression"]
    proposal = hasty(task) if rng.random() < 0.5 else task["expression"]
    says = "agree" if rng.random() < 0.7 else task["expression"]
    return [
        [*solver_prompt(task), {"role": "assistant", "content": answer}],
        [*checker_prompt(task, proposal), {"role": "assistant", "content": says}],
    ]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    source = islice(problems(4, held_out=False), RECIPE.transcripts // 2)
    spoken = [transcript for task in source for transcript in transcripts(task, rng)]
    return make_tiny_model(RECIPE, spoken, [], report)


RECIPE = Recipe(transcripts=10000, steps=230, batch=48)

config = dataclasses.replace(
    gsm8k_offline.config,
    workflow=solve,
    judge=None,
    tasks=tasks,
    make_model=make_model,
    steps=20,
    model=ModelConfig(max_model_len=256),
    sampling=SamplingConfig(max_tokens=24),
    eval=EvalConfig(every=10, num_tasks=200),
)
