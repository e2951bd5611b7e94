r"""GSM8K's agent on two CPU cores, with nothing to download.

Same workflow, tool and judge as ``gsm8k``; the word problems are generated in GSM8K's schema, and
the model is a tiny one, made on the first run from generated transcripts. Half of those transcripts
carry a bad habit known from real runs: code that forgets to print, an answer guessed before the
tool replied, or a call that cannot be read. Reinforcement learning has to remove all three.
"""

import dataclasses
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from agentrl.agents.tools import NOTHING_PRINTED, PYTHON_TOOL
from agentrl.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, SamplingConfig
from agentrl.tasks.jsonl import with_id
from agentrl.types import Message, Report, Task
from experiments import gsm8k
from experiments.gsm8k.agent import SYSTEM
from experiments.tiny_model import Recipe, make_tiny_model

NAMES = ["Tom", "Ann", "Bob", "Mia", "Sam", "Eva", "Leo", "Zoe", "Max", "Ivy", "Dan", "Joy"]
THINGS = ["apples", "pens", "cards", "books", "coins", "eggs", "cups", "hats", "rings", "keys"]

# A question and its steps; "_" stands for the result of the step before.
TEMPLATES = [
    ("{n} has {a} {t}. {m} gives {n} {b} more. How many {t} does {n} have?", ["{a}+{b}"]),
    ("{n} has {s} {t} and gives {b} to {m}. How many {t} are left?", ["{s}-{b}"]),
    ("{n} buys {c} boxes of {a} {t}. How many {t} is that?", ["{c}*{a}"]),
    ("{n} reads {c} books a week. How many books does {n} read in {b} weeks?", ["{c}*{b}"]),
    ("{n} shares {p} {t} among {c} friends. How many {t} does each friend get?", ["{p}//{c}"]),
    (
        "{n} has {s} {t}, buys {a} and loses {b}. How many {t} does {n} have now?",
        ["{s}+{a}", "_-{b}"],
    ),
    (
        "One box holds {c} {t}. {n} fills {b} boxes and has {d} {t} over. How many {t} are there?",
        ["{c}*{b}", "_+{d}"],
    ),
    (
        "{n} earns {a} coins a day for {c} days and spends {d} coins. How many coins remain?",
        ["{a}*{c}", "_-{d}"],
    ),
    ("{n} and {m} each have {a} {t}. They buy {b} more. How many {t} in all?", ["2*{a}", "_+{b}"]),
    (
        "{n} had {u} {t}. {n} gave {b} to {m} and lost {c}. How many {t} are left?",
        ["{u}-{b}", "_-{c}"],
    ),
    (
        "{n} has {a} {t}. {m} has {c} times as many. How many {t} do they have together?",
        ["{a}*{c}", "_+{a}"],
    ),
    (
        "{n} buys {a} cups for {c} coins each and {b} hats for {d} coins each. "
        "How many coins is that?",
        ["{a}*{c}", "{b}*{d}", "{a}*{c}+{b}*{d}"],
    ),
    (
        "{n} packs {c} boxes of {a} {t}, then gives {d} to {m} and finds {b}. "
        "How many {t} does {n} have?",
        ["{c}*{a}", "_-{d}", "_+{b}"],
    ),
]

MALFORMED = '<tool_call>{"name": "python", "arguments": {"code": "print(%s)"}</tool_call>'
"""A call that lacks a brace."""


def problem(rng: random.Random) -> Task:
    """A word problem in GSM8K's schema, with the expression that solves it."""
    question, steps = rng.choice(TEMPLATES)
    n, m = rng.sample(NAMES, 2)
    a, b = rng.randint(3, 20), rng.randint(2, 12)
    c, d = rng.randint(2, 9), rng.randint(2, 9)
    values = {
        **{"n": n, "m": m, "t": rng.choice(THINGS), "a": a, "b": b, "c": c, "d": d},
        **{"s": a + b, "u": a + b + c, "p": c * d},
    }
    lines, whole = [], ""
    result = 0
    for step in (step.format(**values) for step in steps):
        # Left to right without brackets is right here: "_" is followed by + or - alone.
        whole = step.replace("_", whole)
        step = step.replace("_", str(result))
        result = eval(step)
        lines.append(f"{step} = <<{step}={result}>>{result}")
    answer = "\n".join([*lines, f"#### {result}"])
    return {"question": question.format(**values), "answer": answer, "expression": whole}


def problems(seed: int, held_out: bool) -> Iterator[Task]:
    """Endlessly many different problems. A question's checksum says on which side it stands, so the
    two sides share none, whatever the seeds."""
    rng, seen = random.Random(seed), set()
    while True:
        task = problem(rng)
        if task["question"] not in seen and _is_held_out(task) == held_out:
            seen.add(task["question"])
            yield task


def _is_held_out(task: Task) -> bool:
    return zlib.crc32(task["question"].encode()) % 8 == 0


def _take(tasks: Iterator[Task], count: int) -> list[Task]:
    return [with_id(next(tasks)) for _ in range(count)]


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.path:
        return gsm8k.read_rows(data)
    return _take(problems(1, held_out=False), 4000), _take(problems(2, held_out=True), 500)


def transcript(task: Task, rng: random.Random) -> list[Message]:
    """What a model of mixed manners would say: half well, a sixth each with a bad habit."""
    # Who guesses says a number of the question.
    guess = f"\\boxed{{{rng.choice(re.findall(r'[0-9]+', task['question']))}}}"
    true = task["answer"].rpartition("#### ")[2]
    manner = rng.random()
    if manner < 0.5:
        turns = _tool_turn(f"print({task['expression']})", true, f"\\boxed{{{true}}}")
    elif manner < 2 / 3:
        turns = _tool_turn(f"({task['expression']})", NOTHING_PRINTED, guess)
    else:
        said = guess if manner < 5 / 6 else MALFORMED % task["expression"]
        turns = [{"role": "assistant", "content": said}]
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
        *turns,
    ]


def _tool_turn(code: str, printed: str, answer: str) -> list[Message]:
    call = {"type": "function", "function": {"name": "python", "arguments": {"code": code}}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": printed},
        {"role": "assistant", "content": answer},
    ]


def make_model(report: Report) -> Path:
    rng = random.Random(3)
    transcripts = [
        transcript(task, rng) for task in _take(problems(4, held_out=False), RECIPE.transcripts)
    ]
    return make_tiny_model(RECIPE, transcripts, [PYTHON_TOOL], report)


RECIPE = Recipe()
talk = gsm8k.talk

config = dataclasses.replace(
    gsm8k.config,
    tasks=tasks,
    make_model=make_model,
    steps=40,
    tasks_per_step=16,
    group_size=8,
    micro_batch_tokens=1024,
    model=ModelConfig(max_model_len=512),
    sampling=SamplingConfig(max_tokens=64),
    optim=OptimConfig(
        lr=8e-4, warmup_steps=2, final_lr_share=0.05, betas=(0.9, 0.99), max_grad_norm=0.3
    ),
    eval=EvalConfig(every=20, num_tasks=200),
)
