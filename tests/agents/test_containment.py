"""Episodes with faults among healthy ones, on the real engine: contained, accounted for, and gone.

None of what is injected may reach another episode, or stay.
"""

import random
import subprocess
import textwrap
import threading

import pytest

import rollout
from agentrl.agents.interrupt import num_left_behind
from agentrl.records import open_run
from agentrl.serving.sampling import Sampling
from agentrl.types import Episode
from tests.support import faults
from tests.support.collecting import by_episode, collect, worth
from tests.support.commands import SHORT
from tests.support.faults import ENDED_WELL, FAULTS, Held, ask, check_back_to, python
from tests.support.running import start, the_run
from tests.support.sizes import sizes


def content(episode: Episode) -> tuple:
    calls = [(call.prompt_ids, call.completion_ids) for call in episode.calls]
    return episode.status, episode.reward, calls


def check_accounted_for(episodes, without, chosen) -> None:
    """Every episode is what its fault makes of it; the healthy ones are what they were without."""
    for key, episode in episodes.items():
        if key not in chosen:
            assert content(episode) == content(without[key])
            continue
        name, injected = chosen[key], FAULTS[chosen[key]]
        assert episode.task == {"id": key[0]}, name
        assert episode.status in injected.statuses, (name, episode.status, episode.error)
        if injected.statuses == ENDED_WELL:
            assert (episode.error, episode.reward) == (None, worth(episode.calls)), name
        else:
            assert episode.reward is None, name
            assert episode.error.startswith(injected.cause), (name, episode.error[:200])
            assert len(episode.error) < 600, name
        # What was recorded before the fault is still what it was.
        assert content(episode)[2][:1] == content(without[key])[2][:1], name


@pytest.fixture
def warm(serving, monkeypatch):
    """Everything that is started once has been; overruns are noticed soon."""
    monkeypatch.setattr(rollout, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(rollout, "INTERRUPT_SECONDS", 0.5)
    # Side by side, so that every worker of the tool is there.
    code = "import time; time.sleep(0.5)"
    threads = [threading.Thread(target=python.run, args=(code,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert serving.server.url
    collect(serving, {}, 2, 2)
    return serving


@pytest.mark.slow
def test_one_of_each_among_healthy_ones(warm):
    chosen = {(str(i), 0): name for i, name in enumerate(FAULTS)}
    without = by_episode(collect(warm, {}, len(FAULTS), 2))
    before = Held.now(warm)
    episodes = by_episode(collect(warm, chosen, len(FAULTS), 2, episode_seconds=12.0))
    check_accounted_for(episodes, without, chosen)
    del episodes
    check_back_to(before, warm, mebibytes=32)


@pytest.mark.parametrize(
    "kind", ["threads", "processes", "files", "agent_keys", "requests", "mebibytes"]
)
def test_the_control_what_is_left_is_noticed(warm, monkeypatch, kind):
    """Each kind of leak alone, by the check that the tests above end with."""
    monkeypatch.setattr(faults, "SETTLE_SECONDS", 0.2)
    before, ended, undo = Held.now(warm), threading.Event(), []
    if kind == "threads":
        threading.Thread(target=ended.wait, daemon=True).start()
        undo.append(ended.set)
    if kind == "processes":
        undo.append(subprocess.Popen(["sleep", "60"]).kill)
    if kind == "files":
        undo.append(open("/dev/null").close)  # noqa: SIM115
    if kind == "agent_keys":
        undo.append(warm.open(step=0, task_id="t", episode=0)[0].close)
    if kind == "requests":
        call = warm.engine.submit([20], Sampling(temperature=1.0, max_tokens=500))
        undo.append(call.cancel)
    if kind == "mebibytes":
        undo.append(bytearray(40 * 2**20).clear)
    with pytest.raises(AssertionError, match=f"still there: .*'{kind}'"):
        check_back_to(before, warm, mebibytes=32)
    for one in undo:
        one()
    monkeypatch.undo()
    check_back_to(before, warm, mebibytes=32)


@pytest.mark.slow
def test_a_call_in_c_is_left_behind_and_counted(warm, monkeypatch, caplog):
    """Python cannot end it. Its client is closed, its episode is over, and the others go on."""
    release = threading.Event()

    async def solve(task, model):
        await ask(model)
        if task["id"] == "0":
            release.wait()
            await ask(model)
        return 1.0

    before = Held.now(warm)
    fields = {"judge": None, "workflow": solve, "episode_seconds": 0.5}
    episodes = by_episode(collect(warm, {}, 2, 2, **fields))
    assert [(e.status, e.error, e.reward, len(e.calls)) for e in episodes.values()] == [
        *[("timeout", "the workflow blocked its thread for over 0.5 s", None, 1)] * 2,
        *[("truncated", None, 1.0, 1)] * 2,
    ]
    assert num_left_behind() == 2
    assert "2 threads of ended episodes are in calls that Python cannot end" in caplog.text
    monkeypatch.setattr(faults, "SETTLE_SECONDS", 1.0)
    # Of each episode its thread and its event loop's files.
    with pytest.raises(AssertionError, match="{'threads': 2, 'files': 6}"):
        check_back_to(before, warm, mebibytes=32)
    # As soon as it returns, it ends.
    release.set()
    check_back_to(before, warm, mebibytes=32)
    assert num_left_behind() == 0


BROKEN = """
    import asyncio, dataclasses, time
    from experiments import gsm8k_offline

    async def solve(task, model):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
        raise RuntimeError("broken [/INST] \\x1b[2J")

    config = dataclasses.replace(gsm8k_offline.config, workflow=solve)
"""


@pytest.mark.slow
def test_a_run_of_failures_stops_and_says_why(tmp_path, tiny_folder):
    """And it does end, whatever its episodes left running."""
    experiment = tmp_path / "broken.py"
    experiment.write_text(textwrap.dedent(BROKEN))
    flags = ("--max-failed", "0.9", *SHORT, "--eval.every", "None")
    run = start(tmp_path, tiny_folder, *flags, experiment=str(experiment))
    assert run.end() == 1
    assert run.said.splitlines()[-1] == (
        "error: 16 of 16 episodes failed, which is more than --max-failed 0.9. "
        "The commonest cause, 16 times: RuntimeError: broken [/INST] \\x1b[2J"
    )
    # And they can be looked at.
    assert len(open_run(the_run(tmp_path)).episodes(step=1, status="error")) == 16


@pytest.mark.parametrize("how_many", sizes(200, soak=2000))
def test_many_episodes_with_faults_in_a_fifth(warm, how_many):
    rng = random.Random(0)
    tasks = how_many // 8
    episodes_of_all = [(str(row), index) for row in range(tasks) for index in range(8)]
    faulty = rng.sample(episodes_of_all, how_many // 5)
    chosen = {episode: list(FAULTS)[i % len(FAULTS)] for i, episode in enumerate(faulty)}
    without = by_episode(collect(warm, {}, tasks, 8, concurrent_episodes=64))
    before = Held.now(warm)
    fields = {"concurrent_episodes": 64, "episode_seconds": 45.0 if how_many > 200 else 20.0}
    episodes = by_episode(collect(warm, chosen, tasks, 8, **fields))
    assert sorted(episodes) == sorted(episodes_of_all)
    assert len(set(chosen.values())) == len(FAULTS)
    check_accounted_for(episodes, without, chosen)
    del episodes, without
    check_back_to(before, warm, mebibytes=32)
