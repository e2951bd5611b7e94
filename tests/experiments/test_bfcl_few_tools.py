"""BFCL on turns of our own: the package's checker on right calls, bad habits and odd ones."""

import asyncio
import random
from itertools import islice

import pytest

from agentrl.config import DataConfig
from agentrl.environments.game import game
from agentrl.environments.protocol import ToolCall
from experiments import bfcl
from experiments.bfcl import TOOLS, CallsScript, FewTools, call


@pytest.fixture(scope="module")
def world():
    return FewTools()


def won(world, task, bad: float = 0.0, seed: int = 0) -> bool:
    player = CallsScript(task, bad, random.Random(seed))
    return asyncio.run(game(world, task, 0, lambda _: player, {})).success


def test_train_and_held_out_share_nothing_and_right_calls_are_right(world):
    train, held_out = bfcl.tasks(DataConfig())
    assert (len(train), len(held_out)) == (4000, 400)
    asked = {task["question"] for task in train}, {task["question"] for task in held_out}
    assert [len(questions) for questions in asked] == [4000, 400]
    assert not asked[0] & asked[1]
    assert [won(world, task) for task in held_out] == [True] * 400
    assert {len(task["turns"]) for task in held_out} == {1, 2, 3}


def test_each_bad_habit_is_wrong(world):
    tasks = [*islice(bfcl.problems(5, False), 100)]
    assert [won(world, task, bad=1.0, seed=i) for i, task in enumerate(tasks)] == [False] * 100


def test_four_of_the_packages_tools_are_shown_in_its_words(world):
    seen = world.reset(task([]), 0)
    assert sorted(tool["function"]["name"] for tool in seen.tools) == sorted(TOOLS)
    assert seen.text == "Do it."
    assert all("Gorilla file system" in tool["function"]["description"] for tool in seen.tools)


def task(*calls: list[dict]) -> dict:
    """Turns whose right calls are these; plan.md and list.md are there."""
    files = ["list.md", "plan.md"]
    return {"id": "t", "files": files, "turns": ["Do it."] * len(calls), "calls": [*calls]}


TOUCH = call("touch", file_name="a.md")
MOVE = [call("mkdir", dir_name="old"), call("mv", source="plan.md", destination="old")]
RIGHT, WRONG = True, False
AWKWARD = [
    # Where a file is to be made.
    ([TOUCH], [TOUCH, "Done."], RIGHT),
    ([TOUCH], [TOUCH, ""], RIGHT),
    ([TOUCH], [TOUCH, TOUCH, "Done."], RIGHT),
    ([TOUCH], ["Done."], WRONG),
    ([TOUCH], ["", TOUCH], WRONG),
    ([TOUCH], ['touch(file_name="a.md")'], WRONG),
    ([TOUCH], ['<tool_call>{"name": "touch"}</tool_call>'], WRONG),
    ([TOUCH], [call("touch", file_name="b.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name="A.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name=" a.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name="docs/a.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", name="a.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", name="a.md"), TOUCH, "Done."], RIGHT),
    ([TOUCH], [call("touch"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name="a.md", mode="w"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name=["a.md"]), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name=None), "Done."], WRONG),
    ([TOUCH], [{"name": "touch", "arguments": "a.md"}, "Done."], WRONG),
    ([TOUCH], [{"name": "touch", "arguments": ["a.md"]}, "Done."], WRONG),
    ([TOUCH], [{"name": "touch", "arguments": None}, "Done."], WRONG),
    ([TOUCH], [{"name": "Touch", "arguments": TOUCH["arguments"]}, "Done."], WRONG),
    ([TOUCH], [call("mkdir", dir_name="a.md"), "Done."], WRONG),
    ([TOUCH], [TOUCH, call("rm", file_name="a.md"), "Done."], WRONG),
    ([TOUCH], [TOUCH, call("rm", file_name="plan.md"), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name="b.md"), call("rm", file_name="b.md"), TOUCH, ""], RIGHT),
    ([TOUCH], [call("touch", file_name="b.md"), TOUCH, "Done."], WRONG),
    # Tools that are held back, of the system's own making, or of nobody's.
    ([TOUCH], [call("ls"), TOUCH, "Done."], RIGHT),
    ([TOUCH], [call("echo", content="", file_name="a.md"), "Done."], WRONG),
    ([TOUCH], [call("_load_scenario", scenario={}), TOUCH, "Done."], RIGHT),
    ([TOUCH], [call("x" * 100_000), TOUCH, "Done."], RIGHT),
    ([TOUCH], [call("touch", file_name="x" * 100_000), "Done."], WRONG),
    ([TOUCH], [call("touch", file_name="__import__('os').abort()"), "Done."], WRONG),
    # Where two calls are right.
    (MOVE, [*MOVE, "Done."], RIGHT),
    (MOVE, [MOVE[0], "Done."], WRONG),
    (MOVE, [MOVE[1], "Done."], WRONG),
    (MOVE, [MOVE[1], MOVE[0], "Done."], WRONG),
    (MOVE, [*MOVE, MOVE[1], "Done."], RIGHT),
    (MOVE, [MOVE[0], call("mv", source="list.md", destination="old"), "Done."], WRONG),
    (MOVE, [MOVE[0], call("mv", destination="old", source="plan.md"), "Done."], RIGHT),
    # Where none is.
    ([], ["No tool can."], RIGHT),
    ([], [""], RIGHT),
    ([], [TOUCH, "Done."], WRONG),
    ([], [call("cat", file_name="plan.md"), "No."], WRONG),
    ([], [call("touch", name="a.md"), "No."], WRONG),
]


@pytest.mark.parametrize(("right", "actions", "is_right"), AWKWARD)
def test_an_awkward_move(world, right, actions, is_right):
    world.reset(task(right), 0)
    for action in actions:
        seen = world.step(action if isinstance(action, str) else ToolCall(**action))
        if seen.done:
            break
    assert (seen.done, seen.success, seen.reward) == (True, is_right, float(is_right))


def test_a_later_turn_counts_as_the_first(world):
    for said, is_right in ((TOUCH, True), (call("rm", file_name="plan.md"), False)):
        world.reset(task(MOVE, [TOUCH]), 0)
        for action in [*MOVE, "Done.", said, "Done."]:
            seen = world.step(action if isinstance(action, str) else ToolCall(**action))
        assert (seen.done, seen.success) == (True, is_right)
