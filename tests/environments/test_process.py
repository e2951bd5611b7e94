"""Worlds in processes of their own: what one does, no other episode feels."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agentrl.environments import process as process_module
from agentrl.environments.named import environment
from agentrl.environments.process import EnvironmentProcess
from tests.support.processes import ended, is_alive

WORLDS = str(Path(__file__).parent / "worlds.py")
ODD = f"{WORLDS}:Odd"


async def played(way: str, seed: int = 7) -> list[str]:
    """The texts of an episode, which begins with the number of its process."""
    async with environment(ODD) as world:
        seen = [await world.reset({"way": way}, seed)]
        while not seen[-1].done:
            seen.append(await world.step("go"))
    return [one.text for one in seen]


def test_one_seed_is_one_game_alone_and_beside_others():
    async def many():
        return await asyncio.gather(*(played("well", seed) for seed in [7, *range(32), 7]))

    (_, *alone), crowd = asyncio.run(played("well")), asyncio.run(many())
    assert crowd[0][1:] == crowd[8][1:] == crowd[-1][1:] == alone
    # Of 33 seeds no two are one game, and no two share a process.
    assert len({tuple(texts[1:]) for texts in crowd}) == 32
    assert len({texts[0] for texts in crowd}) == 34


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("dies", "asked to step: its process died"),
        ("exits", "asked to step: its process died"),
        ("leaks", "asked to step: OSError: [Errno 12] Cannot allocate memory"),
        ("raises", "asked to step: KeyError: 'go'"),
    ],
)
def test_a_world_that_fails_costs_its_own_episode(way, cause):
    async def both():
        return await asyncio.gather(played(way), played("well"), return_exceptions=True)

    failed, well = asyncio.run(both())
    assert str(failed).endswith(cause)
    assert well[1:] == asyncio.run(played("well"))[1:]


@pytest.mark.parametrize("way", ["hangs", "sleeps"])
def test_a_world_that_hangs_is_killed_as_its_episode_ends(way):
    async def given_up():
        async with environment(ODD) as world:
            process = (await world.reset({"way": way}, 7)).text.split()[1]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(world.step("go"), 0.3)
            started = time.monotonic()
        return process, time.monotonic() - started, await played("well")

    process, seconds, well = asyncio.run(given_up())
    # It owed an answer, so it was not waited for.
    assert ended(process)
    assert seconds < 0.9
    assert len(well) == 4


def test_one_that_does_not_close_is_killed_after_a_moment():
    process, *_ = asyncio.run(played("hangs at the end"))
    assert ended(process.split()[1])


def test_a_fork_server_that_was_killed_is_started_anew():
    _, *before = asyncio.run(played("well"))
    server = process_module._servers[ODD, os.getpid()]
    os.kill(server._process.pid, signal.SIGKILL)
    assert ended(server._process.pid)
    assert asyncio.run(played("well"))[1:] == before


def test_what_a_world_started_ends_with_it():
    async def started():
        async with environment(ODD) as world:
            await world.reset({"way": "starts"}, 7)
            program = (await world.step("go")).text
            assert is_alive(program)
        return program

    assert ended(asyncio.run(started()))


def test_worlds_end_with_whoever_asked_for_them(tmp_path):
    child = os.fork()
    if child == 0:
        # A fork has no fork server yet, whatever its parent had.
        asyncio.run(_left_open(tmp_path / "process"))
        os._exit(0)
    os.waitpid(child, 0)
    assert ended((tmp_path / "process").read_text())


async def _left_open(file: Path):
    world = await EnvironmentProcess.start(ODD)
    seen = await world.reset({"way": "hangs"}, 7)
    with suppress(TimeoutError):
        await asyncio.wait_for(world.step("go"), 0.2)
    file.write_text(seen.text.split()[1])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (f"{WORLDS}:Refused", "worlds.py:Refused: there is no board$"),
        (f"{WORLDS}:Nowhere", "worlds.py has no function 'Nowhere'; by name there are "),
        ("gymnasium:", "gymnasium: does not say what: write gymnasium:WHAT"),
        ("gymnasium:Nothing-v0", "environment gymnasium:Nothing-v0: .*`Nothing` doesn't exist"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(name, sentence):
    async def opened():
        async with environment(name):
            pass

    with pytest.raises(ValueError, match=sentence):
        asyncio.run(opened())


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch, tmp_path):
    from agentrl.environments.requirement import required

    with pytest.raises(ValueError, match=r"^nowhere_1 is not installed: pip install nowhere==1$"):
        required("nowhere_1", "nowhere==1")
