"""Tasksets of verifiers, which is imported in its own processes alone."""

import asyncio
import sys

import pytest

from agentrl.environments import process
from agentrl.environments.named import environment, tasks_of
from agentrl.environments.protocol import ToolCall
from tests.support.playing import played, shown
from tests.support.reversal import REVERSAL

TASKSET = {"env": "verifiers:reversal"}


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    (tmp_path / "reversal.py").write_text(REVERSAL)
    monkeypatch.syspath_prepend(str(tmp_path))


async def game(index: int, answer) -> list:
    async with environment(TASKSET["env"]) as world:
        seen = await world.reset({"index": index}, 0)
        return [seen.text, await world.step(answer)]


async def many(*games):
    return await asyncio.gather(*(game(*one) for one in games), return_exceptions=True)


@pytest.mark.slow
def test_tasks_are_scored_by_their_own_rewards():
    """All of it at once: to import verifiers takes five seconds of CPU."""
    train, held_out = asyncio.run(tasks_of(TASKSET["env"]))
    assert [row["index"] for row in held_out] == [9, 19]
    assert [row["index"] for row in train] == [*range(9), *range(10, 19)]
    assert len({row["id"] for row in train + held_out}) == 20
    right = played({**TASKSET, "index": 3}, "3drow")
    assert (right.status, right.reward, right.success) == ("ok", 1.0, True), right.error
    assert [c.reward for c in right.calls] == [1.0]
    assert shown(right) == [("user", "Be brief.\n\nReverse it:\n\nword3")]
    assert [played({**TASKSET, "index": 3}, said).reward for said in ("w3", "x" * 99_999)] == [
        *(0.25, 0.0)
    ]
    # What goes wrong in a reward is its own episode's.
    raised = played({**TASKSET, "index": 3}, "raise")
    assert raised.status == "error"
    assert "OSError: no dictionary" in raised.error
    assert played({**TASKSET, "index": 3}, "hang", seconds=1.0).status == "timeout"
    crowd = asyncio.run(
        many((2, "2drow"), *((n % 20, f"{n % 20}drow") for n in range(32)), (4, "die"))
    )
    assert "its process died" in str(crowd[-1])
    assert crowd[3] == crowd[0] == crowd[23] == asyncio.run(game(2, "2drow"))
    assert {one[1].reward for one in crowd[:11]} == {1.0}
    garbage = asyncio.run(many((2, ""), (2, ToolCall(name="none", arguments="{"))))
    assert [(one[1].reward, one[1].done) for one in garbage] == [(0.25, True), (0.25, True)]
    assert "verifiers" not in sys.modules

    async def opened(name):
        async with environment(name):
            pass

    with pytest.raises(ValueError, match="tasks of reversal need verifiers' own harness"):
        asyncio.run(opened("verifiers:reversal?count=2&boxed=true"))


def test_where_it_is_missing_the_line_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "FOLDERS", tmp_path / "none")
    told = "verifiers is not installed: pip install --no-deps --target .environments/verifiers -r"

    async def opened():
        async with environment("verifiers:nothing?x=1"):
            pass

    with pytest.raises(ValueError, match=told):
        asyncio.run(opened())
