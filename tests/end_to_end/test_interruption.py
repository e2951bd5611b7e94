"""Whole runs that are interrupted, killed in part, or run into a wall."""

import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.records import open_run
from tests.support.device import two_gpus
from tests.support.running import (
    STEPS,
    TWO_RANKS,
    are_equal,
    metrics,
    repeatable,
    said_of,
    start,
    steps_saved,
    the_run,
    weights,
)
from tests.support.sizes import SLOW, SOAK, some_of

ONE = ("--num_processes", "1")


def last_step(folder: Path) -> int:
    return metrics(the_run(folder))[-1]["step"]


@pytest.mark.parametrize(
    ("launch", "number", "all_of_them", "status"),
    [
        pytest.param(None, signal.SIGINT, True, 130, id="Ctrl-C", marks=SLOW),
        pytest.param(None, signal.SIGTERM, False, 143, id="SIGTERM", marks=SLOW),
        # What the launcher returns is its own affair, but never 0.
        pytest.param(ONE, signal.SIGINT, True, None, id="Ctrl-C, launched", marks=SOAK),
        pytest.param(ONE, signal.SIGTERM, False, None, id="SIGTERM to the launcher", marks=SOAK),
        pytest.param(
            *(TWO_RANKS, signal.SIGINT, True, None),
            id="Ctrl-C, two ranks",
            marks=[SLOW, two_gpus],
        ),
        pytest.param(
            *(TWO_RANKS, signal.SIGTERM, False, None),
            id="SIGTERM to the launcher of two",
            marks=[SOAK, two_gpus],
        ),
    ],
)
def test_interrupted_once_it_saves_and_says_where(
    tmp_path, tiny_folder, launch, number, all_of_them, status
):
    # What the launcher itself is asked, is asked of one that was started as a person does.
    afresh = launch is not None and not all_of_them
    run = start(tmp_path, tiny_folder, "--steps", "500", launch=launch, afresh=afresh)
    run.wait_for("step   2/500")
    interrupted = time.monotonic()
    returned = run.signal(number, all_of_them=all_of_them).end()
    assert time.monotonic() - interrupted < 30
    assert returned == status if status else returned != 0
    done = last_step(tmp_path)
    name = signal.Signals(number).name
    assert f"{name} after step {done}: go on with --resume {the_run(tmp_path)}" in run.said
    assert steps_saved(the_run(tmp_path)) == [done]
    assert open_run(the_run(tmp_path)).steps() == list(range(done + 1))

    resumed = start(tmp_path, tiny_folder, "--steps", str(done + 1), "--resume", the_run(tmp_path))
    assert resumed.end() == 0, resumed.said
    assert [row["step"] for row in metrics(the_run(tmp_path))] == list(range(done + 2))
    assert open_run(the_run(tmp_path)).steps() == list(range(done + 2))


@pytest.mark.slow
def test_interrupted_in_an_evaluation_it_has_only_that_left_to_do(
    tmp_path, tiny_folder, left_alone
):
    """The weights have moved by then: they are saved as that step's, and not trained on again."""
    experiment = tmp_path / "slow_to_judge.py"
    experiment.write_text(
        textwrap.dedent("""
            import asyncio, dataclasses, os
            from experiments import gsm8k
            from tests.support import drawn_rewards

            async def solve(task, model):
                if model.rng_key[1] == -1 and os.path.exists(os.environ["SLOW"]):
                    print("evaluating", flush=True)
                    await asyncio.sleep(60)
                return await gsm8k.solve(task, model)

            config = dataclasses.replace(drawn_rewards.config, workflow=solve)
        """)
    )
    slow, flags = tmp_path / "slow", repeatable(STEPS)
    options = {"experiment": str(experiment), "environment": {"SLOW": str(slow)}}
    run = start(tmp_path, tiny_folder, *flags, **options).wait_for(said_of(1, STEPS))
    slow.touch()
    assert run.wait_for("evaluating").signal(signal.SIGINT).end() == 130
    assert f"SIGINT after step {STEPS // 2}: go on" in run.said
    assert "eval/success" not in metrics(the_run(tmp_path))[-1]
    slow.unlink()
    resumed = start(tmp_path, tiny_folder, *flags, "--resume", the_run(tmp_path), **options)
    assert resumed.end() == 0, resumed.said
    alone = left_alone(STEPS)
    assert metrics(the_run(tmp_path)) == metrics(alone)
    assert are_equal(weights(the_run(tmp_path)), weights(alone))


@pytest.mark.slow
@pytest.mark.parametrize("launch", [None, pytest.param(TWO_RANKS, marks=two_gpus)])
def test_interrupted_twice_it_leaves_at_once(tmp_path, tiny_folder, launch):
    """Here the main thread is busy for a minute, and asks nobody whether it may go on."""
    experiment = tmp_path / "busy.py"
    experiment.write_text(
        textwrap.dedent("""
            import dataclasses, time
            from tests.support import drawn_rewards

            class Busy(drawn_rewards.Noisy):
                def advantages(self, groups):
                    print("at work", flush=True)
                    deadline = time.monotonic() + 60
                    while time.monotonic() < deadline:
                        time.sleep(0.1)

            config = dataclasses.replace(drawn_rewards.config, algorithm=Busy())
        """)
    )
    run = start(tmp_path, tiny_folder, experiment=str(experiment), launch=launch)
    run.wait_for("at work")
    run.signal(signal.SIGINT, all_of_them=True)
    time.sleep(1.0)
    assert len(run.ranks) == (2 if launch else 1)
    left = time.monotonic()
    returned = run.signal(signal.SIGINT, all_of_them=True).end()
    assert time.monotonic() - left < 10
    assert returned != 0 if launch else returned == 130


@pytest.mark.slow
def test_interrupted_while_it_loads(tmp_path, tiny_folder):
    run = start(tmp_path, tiny_folder, afresh=True).wait_for("run: ")
    assert run.signal(signal.SIGINT).end() == 130
    assert "Traceback" not in run.said
    assert steps_saved(the_run(tmp_path)) == []


@two_gpus
@pytest.mark.parametrize("victim", some_of([(0,), (1,)], in_slow=[0]))
def test_a_rank_that_is_killed_ends_the_run(tmp_path, tiny_folder, victim):
    flags = ("--steps", "500", "--save-every", "1")
    run = start(tmp_path, tiny_folder, *flags, launch=TWO_RANKS).wait_for("step   2/500")
    run.ranks[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert run.end() != 0
    assert time.monotonic() - killed < 60
    # Whatever was being written, the newest checkpoint is whole.
    assert steps_saved(the_run(tmp_path))[-1] >= 2
    assert len(weights(the_run(tmp_path))) > 10
    more = str(last_step(tmp_path) + 1)
    resumed = start(tmp_path, tiny_folder, "--steps", more, "--resume", the_run(tmp_path))
    assert resumed.end() == 0, resumed.said


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 6.4 MiB: enough for three checkpoints and what a run leaves beside them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6600k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(tmp_path, tiny_folder, small_disk):
    flags = ("--steps", "9", "--save-every", "1", "--runs", small_disk / "runs")
    run = start(tmp_path, tiny_folder, *flags)
    assert run.end() == 1
    folder = the_run(small_disk)
    saved = steps_saved(folder)
    said = " ".join(run.said.split())
    assert f"error: {folder}/checkpoints/step-{saved[-1] + 1:05d} could not be written (" in said
    assert "No space left on device" in said
    assert "the last checkpoint is whole: go on from it with --resume" in said
    assert "Traceback" not in said
    # What was being written is gone; room again, it goes on from what there is.
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        f"step-{step:05d}" for step in saved
    ]
    flags = ("--steps", saved[-1] + 1, "--keep-last", "1", "--resume", folder)
    shutil.rmtree(folder / "checkpoints" / f"step-{saved[0]:05d}")
    resumed = start(tmp_path, tiny_folder, *flags)
    assert resumed.end() == 0, resumed.said
    assert len(metrics(folder)) == saved[-1] + 2


@pytest.mark.slow
def test_an_engine_that_dies_is_a_sentence(tmp_path, tiny_folder):
    experiment = tmp_path / "deadly.py"
    experiment.write_text(
        textwrap.dedent("""
            import ctypes, dataclasses, threading
            from tests.support import drawn_rewards

            steps = 0

            class Deadly(drawn_rewards.Noisy):
                def advantages(self, groups):
                    global steps
                    steps += 1
                    if steps == 3:
                        (engine,) = [t for t in threading.enumerate() if t.name == "engine"]
                        kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
                        kill(ctypes.c_ulong(engine.ident), ctypes.py_object(MemoryError))
                    return super().advantages(groups)

            config = dataclasses.replace(drawn_rewards.config, algorithm=Deadly())
        """)
    )
    run = start(tmp_path, tiny_folder, "--save-every", "1", experiment=str(experiment))
    assert run.end() == 1
    assert "error: the engine has stopped: MemoryError()" in run.said
    assert steps_saved(the_run(tmp_path)) == [1, 2]


@pytest.mark.slow
def test_a_workflow_that_hangs_does_not_hold_up_the_end(tmp_path, tiny_folder):
    experiment = tmp_path / "hanging.py"
    experiment.write_text(
        textwrap.dedent("""
            import dataclasses, time
            from experiments import gsm8k
            from tests.support import drawn_rewards

            async def solve(task, model):
                if model.rng_key[1] == 2:
                    time.sleep(3600)
                return await gsm8k.solve(task, model)

            config = dataclasses.replace(drawn_rewards.config, workflow=solve)
        """)
    )
    run = start(tmp_path, tiny_folder, experiment=str(experiment)).wait_for("step  1/30")
    time.sleep(1)
    interrupted = time.monotonic()
    assert run.signal(signal.SIGINT).end() == 130
    assert time.monotonic() - interrupted < 15
    assert steps_saved(the_run(tmp_path)) == [1]
