"""AgentJet's environment services: ours, which offers any environment, and others."""

import asyncio
import contextlib
import socket
import time
from functools import partial

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentrl.environments import serve
from agentrl.environments.named import environment, tasks_of
from agentrl.environments.protocol import ToolCall
from agentrl.environments.random_play import random_play
from agentrl.environments.serve import EnvServer, make_app
from tests.support.loopback import served
from tests.support.playing import played, shown

LAKE = "gymnasium:FrozenLake-v1"
TASKS = [{"seed": seed} for seed in range(4)], [{"id": "held out", "seed": 4}]
SHORTEST = ("down", "down", "right", "right", "down", "right")


@pytest.fixture(scope="module")
def url():
    with served(make_app(EnvServer(f"{LAKE}?is_slippery=false", TASKS))) as url:
        yield url


@pytest.fixture(scope="module")
def slippery():
    with served(make_app(EnvServer(LAKE, TASKS))) as url:
        yield url


def row(number: int) -> dict:
    return {"id": f"train-{number}", "task_id": f"train-{number}"}


async def game(name: str, task: dict, seed: int, actions=SHORTEST) -> list:
    """What is seen until the end."""
    async with environment(name) as world:
        seen = [await world.reset(task, seed)]
        for action in actions:
            if not seen[-1].done:
                seen.append(await world.step(action))
    return [(s.text, s.reward, s.done, s.success, list(s.actions)) for s in seen]


def test_an_episode_to_its_end(url):
    episode = played({"env": f"env-service:{url}", **row(0)}, *SHORTEST)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True), episode.error
    assert [c.reward for c in episode.calls] == [None] * 5 + [1.0]
    itself = played({"env": f"{LAKE}?is_slippery=false", "seed": 0}, *SHORTEST)
    assert shown(episode) == shown(itself)
    hole = played({"env": f"env-service:{url}", **row(0)}, "right", "down")
    assert (hole.reward, hole.success) == (0.0, False)


def test_one_seed_is_the_game_of_gymnasium_itself_alone_and_beside_others(slippery):
    async def many():
        name = f"env-service:{slippery}"
        return await asyncio.gather(*(game(name, row(n % 4), n) for n in range(32)))

    crowd = asyncio.run(many())
    for number in (0, 7, 31):
        alone = asyncio.run(game(LAKE, {"seed": number % 4}, number))
        again = asyncio.run(game(f"env-service:{slippery}", row(number % 4), number))
        assert alone == again == crowd[number]
    assert len({str(one) for one in crowd}) > 8


def test_own_tasks(url):
    train, held_out = asyncio.run(tasks_of(f"env-service:{url}"))
    assert train == [row(n) for n in range(4)]
    assert held_out == [{"id": "held out", "task_id": "held out"}]


def test_random_play(url):
    async def plays(seed):
        async with environment(f"env-service:{url}") as world:
            return await random_play(world, [row(0), row(1)], seed)

    first, again, other = (asyncio.run(plays(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 2


@pytest.mark.parametrize(
    "action",
    [
        *("", "x" * 100_000),
        ToolCall(name="none", arguments={"x": float("nan")}),
        ToolCall(name="none", arguments="\\{"),
        ToolCall(name="none", arguments=["\ud800"]),
    ],
)
def test_a_bad_action_is_answered(url, action):
    seen = asyncio.run(game(f"env-service:{url}", row(0), 0, [action, *SHORTEST]))
    assert seen[1][:3] == ("Answer with one of left, down, right, up.", 0.0, False)
    assert seen[-1][1:4] == (1.0, True, True)


def ask(url: str, route: str, **body) -> tuple[int, dict]:
    with httpx2.Client(base_url=url, timeout=20) as client:
        reply = client.post(f"/{route}", json=body)
        return reply.status_code, reply.json()


def test_the_routes_as_others_ask_them(url):
    assert ask(url, "get_env_profile", env_type="lake", params={"split": "dev"}) == (
        *(200, {"success": True, "data": ["held out"]}),
    )
    status, began = ask(url, "create", task_id="train-1", instance_id="mine")
    assert status == 200
    assert began["data"]["info"]["instance_id"] == "mine"
    assert began["data"]["state"][0]["content"].startswith("Answer with one of left")
    assert ask(url, "create", task_id="train-1", instance_id="mine")[0] == 400
    message = {"role": "assistant", "content": "right"}
    _, stepped = ask(url, "step", instance_id="mine", messages=message)
    assert (stepped["data"]["reward"], stepped["data"]["is_terminated"]) == (0.0, False)
    assert ask(url, "evaluate", instance_id="mine") == (200, {"success": True, "data": 0.0})
    assert ask(url, "get_info", instance_id="mine")[1]["data"] == []
    assert ask(url, "release", instance_id="mine") == (200, {"success": True, "data": True})
    assert ask(url, "release", instance_id="mine") == (200, {"success": False, "data": False})
    said = {"success": False, "detail": "there is no instance mine"}
    assert ask(url, "step", instance_id="mine", messages=message) == (400, said)
    assert ask(url, "create", task_id="nothing")[0] == 400
    assert ask(url, "create", task_id={})[0] == 422


def test_instances_are_released_at_an_end_and_after_a_time_without_use(monkeypatch):
    monkeypatch.setattr(serve, "IDLE_SECONDS", 0.3)
    server = EnvServer(f"{LAKE}?is_slippery=false", TASKS)
    with served(make_app(server)) as url:
        asyncio.run(game(f"env-service:{url}", row(0), 0))
        assert server._instances == {}
        ask(url, "create", task_id="train-1", instance_id="left")
        ask(url, "create", task_id="train-1", instance_id="another")
        assert list(server._instances) == ["left", "another"]
        time.sleep(0.3)
        ask(url, "create", task_id="train-1", instance_id="later")
        assert list(server._instances) == ["later"]
        ask(url, "release", instance_id="later")


def test_a_service_that_hangs_or_goes_away_costs_its_episode(url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert played({"env": f"env-service:{address}"}, seconds=0.3).status == "timeout"
        assert time.monotonic() - started < 4
    episode = played({"env": f"env-service:{address}"})
    assert episode.status == "error"
    assert f"{address}/create does not answer" in episode.error

    async def left():
        with served(make_app(EnvServer(LAKE, TASKS))) as other:
            stack = contextlib.AsyncExitStack()
            world = await stack.enter_async_context(environment(f"env-service:{other}"))
            await world.reset(row(0), 0)
        with pytest.raises(RuntimeError, match="/step does not answer"):
            await world.step("left")
        await stack.aclose()
        return await game(f"env-service:{url}", row(0), 0)

    assert asyncio.run(left())[-1][1:4] == (1.0, True, True)


def test_another_service():
    """One whose replies have no more than AgentJet's; its tools are told by /get_info."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    replies = {
        "get_env_profile": ["a", "b"],
        "create": {"state": [{"content": "You are in"}, {"content": "a box."}], "info": {}},
        "get_info": [tool],
        "step": {"state": [{"content": "dark"}], "reward": 0.25, "is_terminated": True},
        "evaluate": 0.75,
        "release": None,
    }
    asked = []

    async def answer(request, route):
        asked.append((route, await request.json()))
        return JSONResponse({"success": True, "data": replies[route]})

    routes = [Route(f"/{r}", partial(answer, route=r), methods=["POST"]) for r in replies]
    said = '<tool_call>\n{"name": "look", "arguments": {"far": 1}}\n</tool_call>'
    with served(Starlette(routes=routes)) as url:
        name = f"env-service:{url}?env_type=box&deep=1"
        assert asyncio.run(tasks_of(name))[1][1] == {"id": "b", "task_id": "b"}
        assert [body["params"]["split"] for _, body in asked] == ["train", "dev"]
        episode = played({"env": name, "task_id": "a"}, said)
    assert (episode.reward, episode.success) == (0.75, False), episode.error
    assert shown(episode) == [("user", "You are in\n\na box.")]
    assert [route for route, _ in asked[2:]] == [
        *("create", "get_info", "step", "evaluate", "release")
    ]
    _, created = asked[2]
    assert (created["env_type"], created["task_id"], created["params"]["deep"]) == ("box", "a", 1)
    assert {body["instance_id"] for _, body in asked[2:]} == {created["instance_id"]}
    function = {"name": "look", "arguments": '{"far": 1}'}
    assert asked[4][1]["messages"]["tool_calls"][0]["function"] == function
