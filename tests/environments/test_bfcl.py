"""BFCL: right calls and damaged ones, tools that are held back, texts that are no calls."""

import ast
import asyncio
import inspect
import json
import sys

import pytest

from agentrl.environments.bfcl import BFCL
from agentrl.environments.named import environment
from agentrl.environments.protocol import ToolCall
from agentrl.environments.random_play import random_play
from tests.support.playing import played

BASE = "multi_turn_base_3"


@pytest.fixture(scope="module")
def world():
    return BFCL("multi_turn")


def right_call(world, text: str) -> dict:
    """A call of the gold answer as a tool call: its name, its arguments by name."""
    tree = ast.parse(text, mode="eval").body
    method = next(
        getattr(one, tree.func.id)
        for one in world._systems.own.values()
        if hasattr(one, tree.func.id)
    )
    by_name = {one.arg: ast.literal_eval(one.value) for one in tree.keywords}
    bound = inspect.signature(method).bind(*map(ast.literal_eval, tree.args), **by_name)
    return {"name": tree.func.id, "arguments": bound.arguments}


def replay(world, task: str, change=lambda turn, number, action: action) -> bool:
    """Whether the right calls, as they are changed, are a success."""
    seen = world.reset({"id": task}, 1)
    for turn, calls in enumerate(world._golds[task]):
        right = [*(right_call(world, call) for call in calls), "Done."]
        for number, action in enumerate(right):
            action = change(turn, number, action)
            seen = world.step(action if isinstance(action, str) else ToolCall(**action))
            if isinstance(action, str):
                break
        else:
            raise AssertionError("the turn did not end")
    assert (seen.done, seen.reward) == (True, float(seen.success))
    return seen.success


def test_its_tasks(world):
    train, held_out = world.tasks()
    # One of the 800 has no right answer.
    assert (len(train), len(held_out)) == (640, 159)
    assert train[0]["id"] == "multi_turn_base_0"
    assert train[0]["question"].startswith("Move 'final_report.pdf' within document directory to")
    number = {row["id"].rpartition("_")[2] for row in train}
    assert not number & {row["id"].rpartition("_")[2] for row in held_out}
    assert [len(BFCL(f"multi_turn_{kind}").tasks()[0]) for kind in ("base", "miss_func")] == [
        160
    ] * 2


IDS = [
    f"multi_turn_{kind}_{number}"
    for kind in ("base", "miss_func", "miss_param", "long_context")
    for number in (3, 60, 117, 180)
]


@pytest.mark.parametrize("task", IDS)
def test_right_calls_are_right_and_damaged_ones_wrong(world, task):
    assert replay(world, task)
    gold = world._golds[task]
    first = next(turn for turn, calls in enumerate(gold) if calls)
    last = max(turn for turn, calls in enumerate(gold) if calls)
    damages = {
        "a turn without calls": lambda t, n, action: "Done." if t == first else action,
        "the last call is missing": lambda t, n, action: (
            "Done." if (t, n) == (last, len(gold[last]) - 1) else action
        ),
        "another tool": lambda t, n, action: (
            {"name": "none", "arguments": {}} if (t, n) == (first, 0) else action
        ),
    }
    assert {name: replay(world, task, damage) for name, damage in damages.items()} == dict.fromkeys(
        damages, False
    )


@pytest.mark.parametrize("kind", ["miss_func", "miss_param"])
def test_no_call_where_none_is_right(world, kind):
    """One that changes nothing, and one of a tool that is held back."""
    task = f"multi_turn_{kind}_3"
    idle = world._golds[task].index([])
    for name in ("pwd", "find"):
        world.reset({"id": task}, 1)
        for turn, calls in enumerate(world._golds[task]):
            for call in calls:
                world.step(ToolCall(**right_call(world, call)))
            if turn == idle:
                world.step(ToolCall(name=name, arguments={}))
            seen = world.step("Done.")
        assert (seen.done, seen.success) == (True, False)


def test_tools_are_held_back_until_their_turn(world):
    def names(seen):
        assert all(tool["function"]["parameters"]["type"] == "object" for tool in seen.tools)
        return {tool["function"]["name"] for tool in seen.tools}

    first = world.reset({"id": "multi_turn_miss_func_3"}, 1)
    refused = world.step(ToolCall(name="find", arguments={"path": ".", "name": "test"}))
    assert refused.text == "There is no tool find."
    second = world.step("I have no tool for that.")
    assert names(second) - names(first) == {"find", "ls"}
    assert second.text == "I have updated some more functions you can choose from. What about now?"
    found = world.step(ToolCall(name="find", arguments={"path": ".", "name": "test"}))
    assert "test_image1.jpg" in found.text
    types = {
        declared["type"]
        for tool in BFCL("multi_turn_base").reset({"id": "multi_turn_base_60"}, 1).tools
        for declared in tool["function"]["parameters"]["properties"].values()
    }
    assert types <= {"string", "number", "integer", "boolean", "array", "object"}


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("cd", "not json", "Error during execution: "),
        ("cd", None, "Error during execution: "),
        ("cd", ["a"], "Error during execution: "),
        ("cd", {"a b": 1}, "Error during execution: "),
        ("cd", {"file": 1}, "Error during execution: "),
        ("cd", {}, "Error during execution: "),
        ("cd", {"folder": {"x": [1]}}, "Error during execution: "),
        ("cd", {"folder": "x" * 100_000}, '{"error": "cd: '),
        ("_load_scenario", {"scenario": {}}, "There is no tool _load_scenario."),
        ("exec", {"source": "1"}, "There is no tool exec."),
        ("", {}, "There is no tool ."),
    ],
)
def test_odd_calls_are_answered_and_nothing_is_evaluated(world, name, arguments, answer):
    world.reset({"id": BASE}, 1)
    assert world.step(ToolCall(name=name, arguments=arguments)).text.startswith(answer)
    while not (seen := world.step("Done.")).done:
        pass
    assert not seen.success


def test_a_text_is_no_program(world, tmp_path):
    """Whatever an argument says, it is an argument."""
    file = tmp_path / "x"
    said = [
        *(f"'+str(open({str(file)!r},'w'))+'", f"__import__('os').system('touch {file}')"),
        *("echo(content='a')", "\\' + ls(", "\\\\(", 'ls("', "mkdir(", "\n(cat("),
    ]
    world.reset({"id": BASE}, 1)
    for number, text in enumerate(said):
        name = {"file_name": f"{number}.txt"}
        world.step(ToolCall(name="touch", arguments=name))
        world.step(ToolCall(name="echo", arguments={"content": text, **name}))
        shown = world.step(ToolCall(name="cat", arguments=name)).text
        assert json.loads(shown) == {"file_content": text}
    while not (seen := world.step("Done.")).done:
        pass
    assert not seen.success
    assert not file.exists()


def test_the_ready_agent_calls_tools_over_several_turns(world):
    said = []
    replay(world, BASE, lambda t, n, action: said.append(action) or action)
    task = {"env": "bfcl:multi_turn_base", "id": BASE}
    episode = played(task, *said)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True), episode.error
    assert [call.reward for call in episode.calls] == [None] * (len(said) - 1) + [1.0]
    roles = [message["role"] for message in episode.calls[-1].messages]
    assert roles.count("user") == 2
    assert roles.count("tool") == sum(isinstance(action, dict) for action in said)
    wrong = played(task, "No.", "No.")
    assert (wrong.reward, wrong.success) == (0.0, False)


def test_one_seed_is_one_game_alone_and_beside_others():
    async def one(seed: int):
        async with environment("bfcl:multi_turn_base") as world:
            return await random_play(world, [{"id": BASE}] * 2, seed)

    async def beside():
        return await asyncio.gather(*(one(seed % 3) for seed in range(33)))

    alone = [asyncio.run(one(seed)) for seed in (0, 0, 1)]
    many = asyncio.run(beside())
    assert alone[0] == alone[1] == many[0] == many[30]
    assert alone[2] == many[1] != alone[0]
    assert len({str(games) for games in many}) == 3


def test_another_name_is_a_sentence():
    with pytest.raises(ValueError, match="bfcl:multi_turn_x is not known: write multi_turn, or"):
        BFCL("multi_turn_x")


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    cause = "not installed: pip install --no-deps bfcl-eval==2026.3.23"
    with pytest.raises(ValueError, match=cause):
        BFCL("multi_turn_base")
