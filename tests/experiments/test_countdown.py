"""Countdown: what a person would say of an answer, and a player that finds them all."""

import ast
import asyncio
import itertools
import random

import pytest

from agentrl.environments.named import tasks_of
from experiments import countdown

TASK = {"question": "numbers 3 7 12 target 22", "answer": "3 + 7 + 12"}
RIGHT, NEAR, NONE = 1.0, 0.1, 0.0
AWKWARD = [
    ("3 + 7 + 12", RIGHT),
    ("12+7+3", RIGHT),
    ("  (12 + (7)) + 3  ", RIGHT),
    ("<answer>3+7+12</answer>", RIGHT),
    ("I try 3*7.\n<answer>12 + 3 + 7</answer>", RIGHT),
    ("<answer>3*7+12</answer> no: <answer>3+7+12</answer>", RIGHT),
    ("<answer>\n3 + 7 +\n 12</answer>", NONE),  # Two lines are no expression.
    ("<answer>(3 + 7 +\n 12)</answer>", RIGHT),
    ("7 - (0 - 3) + 12", NONE),  # A number of its own.
    ("12 - 7 / 3", NEAR),
    ("3 * 7 + 12", NEAR),
    ("3 * 12 - 7", NEAR),
    ("7 / 3 * 12", NEAR),
    ("3 - 7 - 12", NEAR),
    ("12 / (7 - 3)", NEAR),
    ("3 + 7 + 12 = 22", NONE),
    ("22", NONE),
    ("22 + 0", NONE),
    ("3 + 7", NONE),
    ("7 + 3 + 12 + 0", NONE),
    ("3 + 7 + 12 + 3 - 3", NONE),
    ("7 + 7 + 12 - 3 - 1", NONE),
    ("10 + 12", NONE),
    ("3.0 + 7 + 12", NONE),
    ("03 + 7 + 12", NONE),
    ("3 + 7 + 1 2", NONE),
    ("3 +* 7 + 12", NONE),
    ("-3 + 7 + 12", NEAR),  # As Reasoning Gym writes 7 - 3 + 12.
    ("3 ** 7 + 12", NONE),
    ("3 // 7 + 12", NONE),
    ("12 % 7 + 3", NONE),
    ("7 / (12 - 3 * 4)", NONE),
    ("12 / (7 - 3 - 4)", NONE),
    ("True + 7 + 12", NONE),
    ("'3' + 7 + 12", NONE),
    ("a + 7 + 12", NONE),
    ("sum([3, 7, 12])", NONE),
    ("__import__('os').abort()", NONE),
    ("(" * 5000 + "3 + 7 + 12", NONE),
    ("9**9**9**9", NONE),
    ("\u0663 + 7 + 12", NONE),  # An Arabic three.
    ("3 + 7 + 12  # 22", RIGHT),
    ("", NONE),
    (None, NONE),
]


@pytest.mark.parametrize(("said", "reward"), AWKWARD)
def test_an_awkward_answer(said, reward):
    verdict = asyncio.run(countdown.judge(TASK, said))
    assert (verdict.reward, verdict.success) == (reward, reward == RIGHT)


def solved(task) -> str | None:
    """An expression that reaches the target, of all that there are."""
    _, *numbers, _, target = task["question"].split()
    for a, b, c in itertools.permutations(numbers):
        for f, g in itertools.product("+-*", repeat=2):
            for written in (f"({a} {f} {b}) {g} {c}", f"{a} {f} {b} {g} {c}"):
                if countdown.value(written)[0] == int(target):
                    return written
    return None


def judged(tasks, said) -> list:
    return [asyncio.run(countdown.judge(*one)) for one in zip(tasks, said, strict=True)]


def test_answers_and_a_player_that_tries_all_are_right_and_a_draw_is_seldom():
    train, held_out = countdown.tasks(countdown.DataConfig())
    assert (len(train), len(held_out)) == (8000, 400)
    assert not {task["id"] for task in train} & {task["id"] for task in held_out}
    few, rng = held_out[:60], random.Random(0)
    answers = judged(held_out, [task["answer"] for task in held_out])
    assert {(v.reward, v.success) for v in answers} == {(1.0, True)}
    assert all(v.success for v in judged(few, map(solved, few)))
    drawn = [countdown.drawn(task["question"].split()[1:4], rng) for task in held_out]
    verdicts = judged(held_out, drawn)
    assert {v.reward for v in verdicts} == {0.1, 1.0}
    assert 0.02 < sum(v.success for v in verdicts) / 400 < 0.12


def test_reasoning_gyms_own_answers_are_right():
    made, _ = asyncio.run(tasks_of("reasoning-gym:countdown?size=20&seed=5"))
    about = [ast.literal_eval(item["metadata"]) for item in made]
    asked = [f"numbers {' '.join(map(str, a['numbers']))} target {a['target']}" for a in about]
    verdicts = judged([{"question": q} for q in asked], [item["answer"] for item in made])
    assert all(v.success for v in verdicts)
