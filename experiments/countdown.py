r"""Countdown: reach a number with three others, each used once; two cores, no download.

    python train.py --exp countdown
    accelerate launch train.py --exp countdown_gpu                          # Qwen2.5-3B
    python train.py --exp environment --env reasoning-gym:countdown         # Reasoning Gym's own

As in TinyZero, an expression that takes the numbers as it should and comes to another is worth 0.1,
and the right one 1. What a model wrote is read, never evaluated. Of the transcripts that the tiny
model starts from, some have operators that were only drawn.
"""

import ast
import operator
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from agentrl.agents.contract import JudgeOutput, WorkflowOutput
from agentrl.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from agentrl.tasks.jsonl import read_folder, with_id
from agentrl.types import Message, Report, Task
from experiments.tiny_model import Recipe, make_tiny_model

SYSTEM = "Write an expression of the numbers, each used once, that equals the target."
LARGEST_NUMBER, LARGEST_TARGET = 12, 40
LONGEST = 200
"""Characters of an expression that is read."""
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
OPERATIONS |= {ast.Div: operator.truediv}


def problems(seed: int, held_out: bool) -> Iterator[Task]:
    """Endlessly many; a question's checksum says on which side it stands."""
    rng = random.Random(seed)
    while True:
        numbers = [str(rng.randint(1, LARGEST_NUMBER)) for _ in range(3)]
        written = drawn(numbers, rng)
        target, _ = value(written)
        question = f"numbers {' '.join(numbers)} target {target}"
        is_held_out = zlib.crc32(question.encode()) % 8 == 0
        if 0 < target <= LARGEST_TARGET and is_held_out == held_out:
            yield with_id({"question": question, "answer": written})


def drawn(numbers: list[str], rng: random.Random) -> str:
    """The numbers in some order, with operators drawn between them.

    >>> drawn(["1", "2", "3"], random.Random(0))
    '(2 + 3) - 1'
    """
    a, b, c = rng.sample(numbers, 3)
    f, g = rng.choices("+-*", k=2)
    return f"({a} {f} {b}) {g} {c}" if rng.random() < 0.5 else f"{a} {f} {b} {g} {c}"


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.path:
        return read_folder(data, required=("question",))
    return [*islice(problems(1, False), 8000)], [*islice(problems(2, True), 400)]


def prompt(task: Task, system: str = SYSTEM) -> list[Message]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": task["question"]},
    ]


async def solve(task, model) -> WorkflowOutput:
    answer = await model.openai.chat.completions.create(model="policy", messages=prompt(task))
    return WorkflowOutput(response=answer.choices[0].message.content)


async def judge(task, response) -> JudgeOutput:
    *numbers, target = map(int, re.findall(r"\d+", task["question"]))
    said = re.findall(r"<answer>(.*?)</answer>", response or "", re.DOTALL) or [response or ""]
    result, used = value(said[-1]) or (None, None)
    is_right = used == Counter(numbers) and result == target
    return JudgeOutput(
        reward=1.0 if is_right else 0.1 * (used == Counter(numbers)), success=is_right
    )


def value(text: str) -> tuple[Fraction, Counter] | None:
    """What an expression comes to, exactly, and the numbers that it uses; None where it is none.

    >>> value("(3 - 1) * 4"), value("7 / 0"), value("2 ** 9"), value("__import__('os')")
    ((Fraction(8, 1), Counter({3: 1, 1: 1, 4: 1})), None, None, None)
    """
    try:
        return _value(ast.parse(text.strip()[:LONGEST], mode="eval").body)
    # Also what is nested too deep for the parser.
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> tuple[Fraction, Counter]:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return Fraction(number), Counter([number])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number, of_number = _value(operand)
            return -number, of_number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            (a, of_a), (b, of_b) = _value(left), _value(right)
            return OPERATIONS[type(op)](a, b), of_a + of_b
    raise ValueError("no expression of numbers")


def transcript(task: Task, rng: random.Random) -> list[Message]:
    *numbers, _ = re.findall(r"\d+", task["question"])
    said = task["answer"] if rng.random() < RIGHT else drawn(numbers, rng)
    return [*prompt(task), {"role": "assistant", "content": said}]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    source = islice(problems(4, held_out=False), RECIPE.transcripts)
    return make_tiny_model(RECIPE, [transcript(task, rng) for task in source], [], report)


RIGHT = 0.75
"""The share of transcripts that reach the target."""
RECIPE = Recipe(transcripts=14400, steps=300, batch=48)

config = Config(
    workflow=solve,
    judge=judge,
    tasks=tasks,
    make_model=make_model,
    steps=120,
    tasks_per_step=32,
    group_size=8,
    micro_batch_tokens=1024,
    model=ModelConfig(max_model_len=256),
    sampling=SamplingConfig(max_tokens=24),
    optim=OptimConfig(
        lr=1e-3, warmup_steps=2, final_lr_share=0.05, betas=(0.9, 0.99), max_grad_norm=0.3
    ),
    eval=EvalConfig(every=40, num_tasks=400),
)
