"""OpenEnv's servers, with a real one in a thread."""

import asyncio
import socket
import sys

import pytest

from agentrl.environments.named import environment, tasks_of
from agentrl.environments.protocol import ToolCall
from agentrl.environments.random_play import random_play
from agentrl.environments.tool_calls import as_call
from tests.support.adding import adding_app
from tests.support.loopback import served
from tests.support.playing import call, played, shown


@pytest.fixture(scope="module")
def url():
    with served(adding_app()) as url:
        yield url


def add(number, **more) -> ToolCall:
    return ToolCall(name="step", arguments={"number": number, **more})


async def game(url: str, seed: int, *actions) -> list:
    async with environment(f"openenv:{url}") as world:
        seen = [await world.reset({}, seed)]
        for action in actions:
            seen.append(await world.step(action))
    return seen


def test_an_episode_by_its_tool(url):
    # Seed 4 asks for 12.
    said = [call("step", '{"number": 8, "how": "loudly"}'), call("step", '{"number": 4}')]
    episode = played({"env": f"openenv:{url}", "seed": 4}, *said)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True), episode.error
    assert [c.reward for c in episode.calls] == [None, 1.0]
    told = shown(episode)
    assert told[0] == ("user", "Reach 12 (none -1).")
    assert told[1][1].startswith("8, loudly, 0.")
    assert played({"env": f"openenv:{url}", "seed": 4}, said[0], said[0]).reward == 0.0


def test_its_tool_is_the_schema_of_an_action(url):
    (first,) = asyncio.run(game(url, 4))
    (tool,) = [one["function"] for one in first.tools]
    assert (tool["name"], tool["description"]) == ("step", "Adds a number.")
    assert sorted(tool["parameters"]["properties"]) == ["how", "number"]
    assert tool["parameters"]["properties"]["number"]["maximum"] == 9


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (add(99), "Invalid message\nnumber: Input should be less than or equal to 9"),
        (add("x" * 100_000), "Invalid message\nnumber: Input should be a valid integer"),
        (add(1, more=2), "Invalid message\nmore: Extra inputs are not permitted"),
        (add(float("nan")), "Invalid message\nnumber: Input should be a finite number"),
        (
            as_call({"name": "step", "arguments": '{"number": "\\ud800"}'}),
            "Invalid message\ndata: Input should be a valid dict",
        ),
        (
            ToolCall(name="step", arguments="{"),
            "Invalid message\ndata: Input should be a valid dict",
        ),
        (ToolCall(name="other", arguments={}), "Call the tool step."),
        ("", "Invalid message\ndata: Input should be a valid dict"),
        ("hm " * 30_000, "Invalid message\ndata: Input should be a valid dict"),
    ],
)
def test_a_bad_action_is_answered_and_the_session_lives_on(url, action, sentence):
    seen = asyncio.run(game(url, 4, action, add(8), '{"number": 4}'))
    assert seen[1].text.startswith(sentence)
    assert [one.reward for one in seen] == [0.0, 0.0, 0.0, 1.0]
    assert [one.done for one in seen] == [False, False, False, True]


def test_three_bad_ones_in_a_row_are_the_end(url):
    good = '{"number": 1}'
    episode = played({"env": f"openenv:{url}", "seed": 4}, "a", "b", good, *"cdef")
    assert (episode.status, len(episode.calls)) == ("ok", 6)


def test_one_seed_is_one_game_alone_and_beside_others(url):
    async def many():
        games = (game(url, seed, add(2), add(1)) for seed in [7, *range(32), 7])
        return await asyncio.gather(*games)

    alone, crowd = asyncio.run(game(url, 7, add(2), add(1))), asyncio.run(many())
    assert crowd[0] == crowd[8] == crowd[-1] == alone
    assert len({tuple(seen.text for seen in one) for one in crowd}) == 32


def test_where_there_is_no_capacity_it_waits():
    async def many(url):
        return await asyncio.gather(*(game(url, 4, add(8), add(4)) for _ in range(6)))

    with served(adding_app(at_once=2)) as url:
        games = asyncio.run(many(url))
    assert [[one.reward for one in seen] for seen in games] == [[0.0, 0.0, 1.0]] * 6


def test_own_tasks(url):
    train, held_out = asyncio.run(tasks_of(f"openenv:{url}"))
    assert train == [{"split": "train", "index": i} for i in range(3)]
    assert held_out == [{"split": "test", "index": i} for i in range(2)]
    episode = played({"env": f"openenv:{url}", **held_out[1]}, *["?"] * 3)
    assert "(test 1)." in shown(episode)[0][1]


def test_random_play(url):
    async def plays(seed):
        async with environment(f"openenv:{url}") as world:
            return await random_play(world, [{}] * 6, seed)

    first, again, other = (asyncio.run(plays(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_random_play_of_more_games_than_there_is_capacity_for():
    async def plays(url):
        async with environment(f"openenv:{url}") as world:
            return await random_play(world, [{}] * 3, 0)

    with served(adding_app(at_once=1)) as url:
        assert len(asyncio.run(plays(url))) == 3


def test_a_server_that_fails_is_its_episodes_error(url):
    name = {"env": f"openenv:{url}", "split": "broken"}
    episode = played(name, call("step", '{"number": 9}'))
    assert episode.status == "error"
    assert "no such split (EXECUTION_ERROR)" in episode.error
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert played({"env": f"openenv:{address}"}, seconds=0.3).status == "timeout"
    episode = played({"env": f"openenv:{address}"})
    assert episode.status == "error"
    assert f"{address}/schema does not answer" in episode.error


def test_a_server_that_goes_away():
    async def left():
        with served(adding_app()) as url:
            world = environment(f"openenv:{url}")
            one = await world.__aenter__()
            await one.reset({}, 4)
        with pytest.raises(RuntimeError, match="went away"):
            await one.step(add(1))
        await one.close()

    asyncio.run(left())


def test_a_missing_package_is_told_with_its_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(ValueError, match=r"^websockets is not installed: pip install websockets"):
        asyncio.run(game("http://127.0.0.1:1", 4))
