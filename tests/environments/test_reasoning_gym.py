"""Reasoning Gym: gold answers, answers that are programs, and that they cost nobody anything."""

import asyncio
import sys
import time

import pytest

from agentrl.agents.tools import PythonTool
from agentrl.environments import reasoning_gym_items
from agentrl.environments.named import environment, tasks_of
from agentrl.environments.random_play import random_play
from tests.support.playing import played

COUNTDOWN = "reasoning-gym:countdown?size=10"
KINDS = [
    *("basic_arithmetic", "binary_matrix", "chain_sum", "countdown", "knights_knaves", "n_queens"),
    *("polynomial_multiplication", "puzzle24", "rearc", "spiral_matrix", "string_insertion"),
    *("simple_integration", "bf", "propositional_logic"),
]


@pytest.fixture(scope="module", autouse=True)
def two_sandboxes():
    """Each imports the package for two seconds."""
    few = PythonTool(seconds=30.0, workers=2, preload=["reasoning_gym"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reasoning_gym_items, "sandboxes", few)
        yield


@pytest.fixture(scope="module")
def rows():
    train, held_out = asyncio.run(tasks_of(COUNTDOWN))
    assert (len(train), len(held_out)) == (9, 1)
    return train


async def answer(row: dict, said: str, name: str = COUNTDOWN):
    async with environment(name) as world:
        await world.reset(row, 1)
        return await world.step(said)


def test_its_tasks(rows):
    assert rows == asyncio.run(tasks_of(COUNTDOWN))[0]
    assert rows[0]["question"].startswith("Calculate 139 using all of these numbers: 36, 29, 95,")
    shown = ("answer", "index", "seed", "drawn")
    assert [[row[field] for field in shown] for row in rows[:1]] == [
        ["15 - 4 + 95 + 36 - 32 + 29", 0, 42, [row["answer"] for row in rows[:4]]]
    ]
    assert "reasoning_gym" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
def test_gold_answers_score_full_marks(kind):
    async def score():
        async with environment(f"reasoning-gym:{kind}?size=1&seed=7") as world:
            (row,), _ = await world.tasks()
            begun = await world.reset(row, 1)
            assert begun.text.startswith(row["question"])
            return (await world.step(row["answer"] or "")).reward

    assert asyncio.run(score()) == (0.0 if kind == "propositional_logic" else 1.0)


def test_the_ready_agent_answers_once(rows):
    for said, reward in [(f"So <answer> {rows[0]['answer']}\n</answer>", 1.0), ("1 + 1", 0.05)]:
        episode = played({"env": COUNTDOWN, **rows[0]}, said)
        assert (episode.status, episode.reward) == ("ok", reward), episode.error
        assert episode.success == (reward == 1.0)
        assert [call.reward for call in episode.calls] == [reward]


def test_random_play_is_the_seeds(rows):
    async def games(seed):
        async with environment(COUNTDOWN) as world:
            return await random_play(world, rows[:3], seed)

    first, again, other = (asyncio.run(games(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert {reward for reward, _, _ in first + other} <= {0.05, 1.0}
    assert {said["content"] for _, (_, said), _ in first} <= {row["answer"] for row in rows}


PROGRAMS = {
    "writes": "__import__('builtins').open({file!r}, 'w').write('x')",
    "kills": "__import__('os').kill(__import__('os').getpid(), 9)",
    "exits": "__import__('os')._exit(0)",
    "crashes": "__import__('ctypes').string_at(0)",
    "eats": "len([bytearray(1 << 28) for _ in range(99)])",
    "forges": "(__import__('builtins').print('\\n1.0', flush=True), __import__('os')._exit(0))",
    "calls": "exec(chr(49))",
    "is long": "1 + " * 30_000 + "x!",
}


@pytest.mark.parametrize("alphabet", ["checked", "not checked"])
def test_programs_score_nothing_and_hurt_nobody(rows, alphabet, monkeypatch, tmp_path):
    """What a text may consist of stops them; where it is not looked at, the sandbox does."""
    said = [one.replace("{file!r}", repr(str(tmp_path / "x"))) for one in PROGRAMS.values()]
    if alphabet == "not checked":
        monkeypatch.setattr(reasoning_gym_items, "EXECUTED", {})

    async def beside():
        others = [answer(row, row["answer"]) for row in rows[:3]]
        return await asyncio.gather(*(answer(rows[0], one) for one in said), *others)

    seen = [one.reward for one in asyncio.run(beside())]
    # What it cannot read is worth a little to countdown itself.
    assert max(seen[:-3]) == (0.0 if alphabet == "checked" else 0.01), seen
    assert seen[-3:] == [1.0] * 3
    assert not (tmp_path / "x").exists()


def test_one_that_never_ends_has_its_verdict_after_a_second(rows):
    begun = time.monotonic()
    assert asyncio.run(answer(rows[0], "9**9**9")).reward == 0.0
    # A second of its own, while others compute.
    assert 1.0 < time.monotonic() - begun < 8.0


def test_what_is_not_there_is_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="reasoning-gym:nothing: .*'nothing' not registered"):
        asyncio.run(tasks_of("reasoning-gym:nothing"))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match="not installed: pip install reasoning-gym==0.1.25"):
        asyncio.run(tasks_of(COUNTDOWN))


@pytest.mark.parametrize("said", ["", "x" * 100_000, "<answer>", "\ud83d", "é" * 9, "(" * 5000])
def test_odd_answers_are_wrong(rows, said):
    seen = asyncio.run(answer(rows[0], said))
    assert (seen.done, seen.success) == (True, False)
    assert seen.reward <= 0.01


def test_an_item_that_cannot_be_scored_is_an_error(rows):
    with pytest.raises(RuntimeError, match="no answer to this item can be scored: .*NameError"):
        asyncio.run(answer({**rows[0], "metadata": "lost"}, "1"))
