"""MCP servers, a program for each episode: by hand, and of the package in both of its versions."""

import asyncio
import shlex
import sys
from pathlib import Path

import pytest

from agentrl.environments.named import environment
from agentrl.environments.process import FOLDERS
from agentrl.environments.protocol import ToolCall
from agentrl.environments.tool_calls import as_call
from tests.support.playing import call, played, shown
from tests.support.processes import ended, is_alive

SERVER = Path(__file__).parent / "mcp_server.py"


@pytest.fixture
def named(tmp_path):
    """The name of a world that misbehaves in a way, and the file with its program's number."""
    file = tmp_path / "process id"
    return lambda way="well": f"mcp:{shlex.join([sys.executable, str(SERVER), way, str(file)])}"


@pytest.fixture
def process(tmp_path):
    return lambda: int((tmp_path / "process id").read_text())


async def judge(task, response):
    return float(response == "It is 5.")


def test_an_episode_that_a_judge_decides(named, process):
    said = [call("add", '{"a": 2, "b": 3}') + call("see", "{}"), "It is 5."]
    task = {"env": named(), "question": "What is 2 + 3?"}
    episode = played(task, *said, judge=judge)
    assert (episode.status, episode.reward) == ("ok", 1.0), episode.error
    assert shown(episode) == [
        *(("user", "What is 2 + 3?"), ("tool", "5"), ("tool", "(image)\na box"))
    ]
    assert played(task, "It is 4.", judge=judge).reward == 0.0
    assert ended(process())


def test_its_tools_are_the_models(named):
    async def tools():
        async with environment(named()) as world:
            return await world.reset({"question": "?"}, 0), await world.step("enough")

    first, last = asyncio.run(tools())
    functions = [tool["function"] for tool in first.tools]
    assert [(f["name"], f["description"]) for f in functions] == [
        *(("add", "Adds two numbers."), ("see", ""))
    ]
    assert functions[0]["parameters"]["required"] == ["a", "b"]
    assert (last.done, last.reward, last.success) == (True, None, None)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (ToolCall(name="add", arguments={}), "KeyError: 'a'"),
        (ToolCall(name="add", arguments={"a": "x" * 100_000, "b": 1}), "TypeError: can only"),
        (ToolCall(name="other", arguments={"a": 1, "b": None}), "TypeError: unsupported"),
        (ToolCall(name="add", arguments="{"), "arguments have to be an object"),
        (ToolCall(name="add", arguments=[1]), "arguments have to be an object"),
        (as_call({"name": "add", "arguments": '{"a": Infinity}'}), "arguments have to be an obj"),
        (as_call({"name": "\ud800", "arguments": '"\\ud800"'}), "arguments have to be an object"),
    ],
)
def test_a_bad_call_is_answered_and_the_program_lives_on(named, action, sentence):
    async def both():
        async with environment(named()) as world:
            await world.reset({"question": "?"}, 0)
            return await world.step(action), await world.step(
                ToolCall(name="add", arguments={"a": 1, "b": 1})
            )

    bad, good = asyncio.run(both())
    assert bad.text.startswith(sentence)
    assert not bad.done
    assert good.text == "2"


async def plays(name, seed):
    async with environment(name) as world:
        return await world.random_play([{"question": "?"}] * 2, seed)


def test_one_seed_is_one_game_of_random_calls(named):
    first, again, other = (asyncio.run(plays(named(), seed)) for seed in (1, 1, 2))
    assert first == again != other
    messages = [m for _, conversation, _ in first + other for m in conversation]
    calls = [c["function"] for m in messages for c in m.get("tool_calls", ())]
    assert {c["name"] for c in calls} == {"add", "see"}
    assert all(c["arguments"]["b"] <= 3 for c in calls if c["name"] == "add")


@pytest.mark.slow
def test_one_seed_is_one_game_beside_others(named):
    async def many():
        return await asyncio.gather(*(plays(named(), seed % 3) for seed in range(33)))

    crowd = asyncio.run(many())
    alone = [asyncio.run(plays(named(), seed)) for seed in (0, 0, 1, 2)]
    assert crowd == [alone[1 + seed % 3] for seed in range(33)]
    assert alone[0] == alone[1] != alone[2]


@pytest.mark.parametrize(
    ("way", "status", "cause"),
    [
        ("hangs", "timeout", "the episode ran longer than"),
        ("dies", "error", "ended: the disk is full"),
        ("floods", "ok", None),
        ("stays", "ok", None),
    ],
)
def test_a_program_ends_with_its_episode_whatever_it_does(named, process, way, status, cause):
    said = [call("add", '{"a": 2, "b": 3}'), "It is 5."]
    task = {"env": named(way), "question": "?"}
    episode = played(task, *said, seconds=1.0 if way == "hangs" else 20.0, judge=judge)
    assert episode.status == status, episode.error
    assert cause is None or cause in episode.error
    assert ended(process())


def test_cancelled_in_the_middle_it_ends_and_others_go_on(named, process, tmp_path):
    other = f"mcp:{shlex.join([sys.executable, str(SERVER), 'well', str(tmp_path / 'other')])}"

    async def both():
        async with environment(other) as well:
            await well.reset({"question": "?"}, 0)
            asked = asyncio.create_task(hang())
            async with asyncio.timeout(20):
                while not (tmp_path / "process id").exists():
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0.2)
            assert is_alive(process())
            asked.cancel()
            await asyncio.wait([asked])
            assert ended(process(), 1.0)
            return await well.step(ToolCall(name="add", arguments={"a": 1, "b": 1}))

    async def hang():
        async with environment(named("hangs")) as world:
            await world.reset({"question": "?"}, 0)
            await world.step(ToolCall(name="add", arguments={"a": 1, "b": 1}))

    assert asyncio.run(both()).text == "2"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mcp:no-such-program x", "No such file or directory: 'no-such-program'"),
        ("mcp:a 'b", "No closing quotation"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(name, sentence):
    episode = played({"env": name, "question": "?"})
    assert episode.status == "error"
    assert sentence in episode.error


OF_THE_PACKAGE = """
import importlib.metadata
try:
    from mcp.server.fastmcp import FastMCP as Server
except ImportError:
    from mcp.server.mcpserver import MCPServer as Server
server = Server("numbers")

@server.tool()
def add(a: int, b: int) -> int:
    "Adds two numbers."
    return a + b

@server.tool()
def broken() -> str:
    raise OSError("boom")

@server.tool()
def version() -> str:
    return importlib.metadata.version("mcp")

server.run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("version", "folder"), [("1.30.0", ""), ("2.0.0", "verifiers")])
def test_servers_of_the_package(version, folder, tmp_path):
    """Ours, and the one in verifiers' folder."""
    file = tmp_path / "server.py"
    file.write_text(OF_THE_PACKAGE)
    command = ["env", f"PYTHONPATH={FOLDERS / folder if folder else ''}", sys.executable, str(file)]
    calls = [
        *(("add", {"a": 2, "b": 3}), ("add", {"a": "x"}), ("add", [1]), ("add", "{")),
        *(("broken", {}), ("other", {}), ("version", {})),
    ]

    async def replies():
        async with environment(f"mcp:{shlex.join(command)}") as world:
            await world.reset({"question": "?"}, 0)
            return [(await world.step(ToolCall(name=n, arguments=a))).text for n, a in calls]

    said = asyncio.run(replies())
    parts = ("5", "validation error", "", "", "Error executing tool broken", "other", version)
    assert [part in text for part, text in zip(parts, said, strict=True)] == [True] * 7, said
    assert (said[0], said[-1]) == ("5", version)
    assert all(said)
