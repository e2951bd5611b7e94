"""A service of AppWorld's shape: its instances, code as text, words for tools, its scores."""

import asyncio
import re

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentrl.environments.named import environment, tasks_of
from tests.support.loopback import served
from tests.support.playing import played, shown

TASKS = {"train": ["82e2fac_1", "82e2fac_2"], "dev": ["fd1f8fa_1"]}
TESTS = ("account is right", "song is liked", "nothing else changed")
PAY, LIKE = "apis.venmo.pay()", "apis.spotify.like()"
DONE = "apis.supervisor.complete_task()"


class AppWorld:
    """Six routes; an instance is a shell in which code is run, until it says that it is done."""

    def __init__(self, whole: bool):
        self.instances, self.whole = {}, whole
        self.released = []

    async def answer(self, request):
        asked = await request.json()
        if asked["env_type"] != "appworld":
            return JSONResponse({"success": False, "detail": "no such env_type"}, 400)
        method = getattr(self, request.url.path.strip("/"))
        return JSONResponse({"success": True, "data": method(asked)})

    def get_env_profile(self, asked):
        return TASKS[asked["params"]["split"]]

    def create(self, asked):
        name = asked["instance_id"]
        assert name not in self.instances, name
        self.instances[name] = []
        said = ("system", "You write Python."), ("user", f"Do {asked['task_id']}.")
        state = [{"role": role, "content": content} for role, content in said]
        return {"state": state, "info": {"instance_id": name, "task_id": asked["task_id"]}}

    def get_info(self, asked):
        return "APIs: apis.venmo, apis.spotify, apis.supervisor"

    def step(self, asked):
        run = self.instances[asked["instance_id"]]
        code = re.search(r"```python\n(.*?)```", asked["messages"]["content"], re.DOTALL)
        run.append(code[1].strip() if code else "")
        is_over = run[-1] == DONE
        state = [{"role": "user", "content": f"Output:\n```\n{run[-1] or 'no code'}```"}]
        reward = self.score(run) if is_over else 0.0
        return {"state": state, "reward": reward, "is_terminated": is_over, "info": {}}

    def evaluate(self, asked):
        run = self.instances[asked["instance_id"]]
        score = self.score(run)
        if not self.whole:
            return score
        # As others report it.
        return {"success": score == 1.0, "score": score, "num_tests": len(TESTS)}

    def release(self, asked):
        self.released.append(asked["instance_id"])
        return self.instances.pop(asked["instance_id"], None) is not None

    def score(self, run) -> float:
        return sum([PAY in run, LIKE in run, "apis.spotify.clear()" not in run]) / len(TESTS)


@pytest.fixture(params=[False, True], ids=["a number", "an object"])
def world(request):
    service = AppWorld(request.param)
    names = ("get_env_profile", "create", "get_info", "step", "evaluate", "release")
    routes = [Route(f"/{name}", service.answer, methods=["POST"]) for name in names]
    with served(Starlette(routes=routes)) as url:
        yield service, f"env-service:{url}?env_type=appworld"


def code(text: str) -> str:
    return f"I do it.\n```python\n{text}\n```"


def test_its_tasks_are_those_of_its_splits(world):
    train, held_out = asyncio.run(tasks_of(world[1]))
    assert [row["task_id"] for row in train] == TASKS["train"]
    assert [row["task_id"] for row in held_out] == TASKS["dev"]


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ([PAY, LIKE, DONE], 1.0),
        ([PAY, DONE], 2 / 3),
        ([DONE], 1 / 3),
        (["apis.spotify.clear()", DONE], 0.0),
    ],
)
def test_an_episode_is_worth_the_share_of_its_tests(world, said, score):
    service, name = world
    episode = played({"env": name, "task_id": "82e2fac_1"}, *map(code, said))
    assert episode.status == "ok", episode.error
    assert episode.reward == pytest.approx(score)
    assert episode.success == (score == 1.0)
    # All of it is the last call's: the service tells it twice, in /step and in /evaluate.
    assert [call.reward for call in episode.calls[:-1]] == [None] * (len(said) - 1)
    # Words about tools are in the first message, and no tools.
    assert episode.calls[0].tools == ()
    assert shown(episode)[0] == ("user", "You write Python.\n\nDo 82e2fac_1.")
    assert (service.instances, len(service.released)) == ({}, 1)


def test_what_is_no_code_is_answered_and_a_tool_is_none(world):
    task = {"env": world[1], "task_id": "82e2fac_1"}
    episode = played(task, "hello", code(PAY), code(LIKE), code(DONE))
    assert (episode.reward, episode.success) == (1.0, True)
    assert shown(episode)[1] == ("user", "Output:\n```\nno code```")


def test_instances_do_not_mix(world):
    service, name = world

    async def one(number: int):
        async with environment(name) as mine:
            await mine.reset({"id": "x", "task_id": "82e2fac_1"}, number)
            for text in [*[PAY, LIKE][: number % 3], DONE]:
                seen = await mine.step(code(text))
            return seen.reward

    async def all_of_them():
        return await asyncio.gather(*map(one, range(12)))

    shares = asyncio.run(all_of_them())
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0] * 4)
    assert (service.instances, len({*service.released})) == ({}, 12)


def test_another_env_type_is_a_cause(world):
    name = world[1].replace("appworld", "webshop")
    with pytest.raises(RuntimeError, match="no such env_type"):
        asyncio.run(tasks_of(name))


def test_a_score_without_a_number_is_a_cause(world, monkeypatch):
    monkeypatch.setattr(AppWorld, "evaluate", lambda self, asked: {"report": "fine"})
    episode = played({"env": world[1], "task_id": "82e2fac_1"}, code(DONE))
    assert (episode.status, episode.reward) == ("error", None)
    assert episode.error == "KeyError: 'score'"
