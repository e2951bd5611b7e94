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
from agentrl.config import Config, ModelConfig, SamplingConfig
from agentrl.records import open_run
from agentrl.serving.sampling import Sampling
from agentrl.types import Episode, Group
from tests.end_to_end.test_train import SHORT, run
from tests.support import faults
from tests.support.faults import ENDED_WELL, FAULTS, Held, ask, check_back_to, python


def worth(calls) -> float:
    """A reward that no other calls have."""
    return sum(sum(call.completion_ids) for call in calls) % 997 / 997


async def judge(task, response, episode):
    return response() if callable(response) else worth(episode.calls)


def make_workflow(chosen: dict[tuple[str, int], str]):
    """Two calls, with the fault in between that is chosen for this task and episode."""

    async def solve(task, model):
        *_, task_id, index = model._session.seed
        said = [await ask(model)]
        output = None
        if (task_id, index) in chosen:
            output = await FAULTS[chosen[task_id, index]].do(task, model)
        said.append(await ask(model))
        return 0.0 if output is None else output

    return solve


def collect(serving, chosen, num_tasks, group_size, **fields) -> list[Group]:
    config = Config(
        **{"workflow": make_workflow(chosen), "judge": judge, **fields},
        tasks=lambda data: ([], []),
        model=ModelConfig(path="m", max_model_len=512),
        sampling=SamplingConfig(max_tokens=16),
    )
    tasks = [{"id": str(i)} for i in range(num_tasks)]
    return rollout.run_groups(
        tasks, config, serving, step=1, group_size=group_size, report=lambda share, note: None
    )


def by_place(groups: list[Group]) -> dict[tuple[str, int], Episode]:
    return {(g.task["id"], e.index): e for g in groups for e in g.episodes}


def content(episode: Episode) -> tuple:
    calls = [(call.prompt_ids, call.completion_ids) for call in episode.calls]
    return episode.status, episode.reward, calls


def check_accounted_for(episodes, without, chosen) -> None:
    """Every episode is what its fault makes of it; the healthy ones are what they were without."""
    for place, episode in episodes.items():
        if place not in chosen:
            assert content(episode) == content(without[place])
            continue
        name, injected = chosen[place], FAULTS[chosen[place]]
        assert episode.task == {"id": place[0]}, name
        assert episode.status in injected.statuses, (name, episode.status, episode.error)
        if injected.statuses == ENDED_WELL:
            assert (episode.error, episode.reward) == (None, worth(episode.calls)), name
        else:
            assert episode.reward is None, name
            assert episode.error.startswith(injected.cause), (name, episode.error[:200])
            assert len(episode.error) < 600, name
        # What was recorded before the fault is still what it was.
        assert content(episode)[2][:1] == content(without[place])[2][:1], name


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
    assert serving.endpoint.url
    collect(serving, {}, 2, 2)
    return serving


def test_one_of_each_among_healthy_ones(warm):
    chosen = {(str(i), 0): name for i, name in enumerate(FAULTS)}
    without = by_place(collect(warm, {}, len(FAULTS), 2))
    before = Held.now(warm)
    episodes = by_place(collect(warm, chosen, len(FAULTS), 2, episode_seconds=12.0))
    check_accounted_for(episodes, without, chosen)
    del episodes
    check_back_to(before, warm, mebibytes=32)


@pytest.mark.parametrize(
    "kind", ["threads", "processes", "files", "seats", "requests", "mebibytes"]
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
    if kind == "seats":
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
    """Python cannot end it. Its door is shut, its episode is over, and the others go on."""
    release = threading.Event()

    async def solve(task, model):
        await ask(model)
        if task["id"] == "0":
            release.wait()
            await ask(model)
        return 1.0

    before = Held.now(warm)
    fields = {"judge": None, "workflow": solve, "episode_seconds": 0.5}
    episodes = by_place(collect(warm, {}, 2, 2, **fields))
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
    said = run(
        *("train.py", "--exp", str(experiment), "--model.path", str(tiny_folder)),
        *("--runs", str(tmp_path / "runs"), "--max-failed", "0.9", *SHORT, "--eval.every", "None"),
        expect=1,
    )
    assert said.splitlines()[-1] == (
        "error: 16 of 16 episodes failed, which is more than --max-failed 0.9. "
        "The commonest cause, 16 times: RuntimeError: broken [/INST] \\x1b[2J"
    )
    # And they can be looked at.
    (folder,) = (tmp_path / "runs" / "broken").iterdir()
    assert len(open_run(folder).episodes(step=1, status="error")) == 16


@pytest.mark.slow
def test_two_thousand_episodes_with_faults_in_a_fifth(warm):
    rng = random.Random(0)
    places = [(str(row), index) for row in range(250) for index in range(8)]
    faulty = rng.sample(places, len(places) // 5)
    chosen = {place: list(FAULTS)[i % len(FAULTS)] for i, place in enumerate(faulty)}
    without = by_place(collect(warm, {}, 250, 8, concurrent_episodes=64))
    before = Held.now(warm)
    fields = {"concurrent_episodes": 64, "episode_seconds": 45.0}
    episodes = by_place(collect(warm, chosen, 250, 8, **fields))
    assert sorted(episodes) == sorted(places)
    check_accounted_for(episodes, without, chosen)
    del episodes, without
    check_back_to(before, warm, mebibytes=32)
