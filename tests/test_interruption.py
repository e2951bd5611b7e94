"""Whole runs that are interrupted, killed in part, or run into a wall."""

import resource
import signal
import textwrap
import time
from pathlib import Path

import pytest

from tests.running import EXPERIMENT, TWO_RANKS, Running, metrics, steps_saved, weights

ONE = ("--num_processes", "1")


def start(folder: Path, model: Path, *flags: str, experiment: str = EXPERIMENT, **options):
    run = ("--exp", experiment, "--model.path", str(model), "--runs", str(folder / "runs"))
    return Running(folder / "log", *run, *flags, **options)


def the_run(folder: Path) -> Path:
    (run,) = folder.glob("runs/*/*")
    return run


def last_step(folder: Path) -> int:
    return metrics(the_run(folder))[-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "number", "all_of_them", "status"),
    [
        pytest.param(None, signal.SIGINT, True, 130, id="Ctrl-C"),
        pytest.param(None, signal.SIGTERM, False, 143, id="SIGTERM"),
        # What the launcher returns is its own affair, but never 0.
        pytest.param(ONE, signal.SIGINT, True, None, id="Ctrl-C, launched"),
        pytest.param(ONE, signal.SIGTERM, False, None, id="SIGTERM to the launcher"),
        pytest.param(TWO_RANKS, signal.SIGINT, True, None, id="Ctrl-C, two ranks"),
        pytest.param(TWO_RANKS, signal.SIGTERM, False, None, id="SIGTERM to the launcher of two"),
    ],
)
def test_interrupted_once_it_saves_and_says_where(
    tmp_path, tiny_folder, launch, number, all_of_them, status
):
    run = start(tmp_path, tiny_folder, "--steps", "500", launch=launch).wait_for("step   2/500")
    interrupted = time.monotonic()
    returned = run.signal(number, all_of_them=all_of_them).end()
    assert time.monotonic() - interrupted < 30
    assert returned == status if status else returned != 0
    done = last_step(tmp_path)
    name = signal.Signals(number).name
    assert f"{name} after step {done}: go on with --resume {the_run(tmp_path)}" in run.said
    assert steps_saved(the_run(tmp_path)) == [done]

    resumed = start(tmp_path, tiny_folder, "--steps", str(done + 1), "--resume", the_run(tmp_path))
    assert resumed.end() == 0, resumed.said
    assert [row["step"] for row in metrics(the_run(tmp_path))] == list(range(done + 2))


@pytest.mark.slow
@pytest.mark.parametrize("launch", [None, TWO_RANKS])
def test_interrupted_twice_it_leaves_at_once(tmp_path, tiny_folder, launch):
    """Here the main thread is busy for a minute, and asks nobody whether it may go on."""
    experiment = tmp_path / "busy.py"
    experiment.write_text(
        textwrap.dedent("""
            import dataclasses, time
            from tests import drawn_rewards

            def busy(groups):
                print("busy", flush=True)
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    time.sleep(0.1)

            config = dataclasses.replace(drawn_rewards.config, advantages=busy)
        """)
    )
    run = start(tmp_path, tiny_folder, experiment=str(experiment), launch=launch).wait_for("busy")
    run.signal(signal.SIGINT, all_of_them=True)
    time.sleep(1.5)
    assert len(run.ranks) == (2 if launch else 1)
    left = time.monotonic()
    returned = run.signal(signal.SIGINT, all_of_them=True).end()
    assert time.monotonic() - left < 10
    assert returned != 0 if launch else returned == 130


@pytest.mark.slow
def test_interrupted_while_it_loads(tmp_path, tiny_folder):
    run = start(tmp_path, tiny_folder).wait_for("run: ")
    assert run.signal(signal.SIGINT).end() == 130
    assert "Traceback" not in run.said
    assert steps_saved(the_run(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
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


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays(tmp_path, tiny_folder):
    flags = ("--steps", "2", "--save-every", "1")
    assert start(tmp_path, tiny_folder, *flags).end() == 0
    run = the_run(tmp_path)
    before = {p: p.read_bytes() for p in run.glob("checkpoints/**/*") if p.is_file()}
    size = max(map(len, before.values()))

    def no_file_as_large():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    flags = ("--steps", "5", "--save-every", "1", "--resume", run)
    full = start(tmp_path, tiny_folder, *flags, preexec_fn=no_file_as_large)
    assert full.end() == 1
    said = " ".join(full.said.split())
    assert f"error: {run}/checkpoints/step-00003 could not be written (" in said
    assert "File too large" in said
    assert "go on from it with --resume" in said
    assert "Traceback" not in said
    assert {p: p.read_bytes() for p in run.glob("checkpoints/**/*") if p.is_file()} == before


@pytest.mark.slow
def test_an_engine_that_dies_is_a_sentence(tmp_path, tiny_folder):
    experiment = tmp_path / "deadly.py"
    experiment.write_text(
        textwrap.dedent("""
            import ctypes, dataclasses, threading
            from tests import drawn_rewards

            steps = 0

            def deadly(groups):
                global steps
                steps += 1
                if steps == 3:
                    (engine,) = [t for t in threading.enumerate() if t.name == "engine"]
                    kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
                    kill(ctypes.c_ulong(engine.ident), ctypes.py_object(MemoryError))
                return drawn_rewards.noisy(groups)

            config = dataclasses.replace(drawn_rewards.config, advantages=deadly)
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
            from tests import drawn_rewards

            async def solve(task, model):
                if model.place[1] == 2:
                    time.sleep(3600)
                return await gsm8k.solve(task, model)

            config = dataclasses.replace(drawn_rewards.config, workflow=solve)
        """)
    )
    run = start(tmp_path, tiny_folder, experiment=str(experiment)).wait_for("step  1/30")
    time.sleep(2)
    interrupted = time.monotonic()
    assert run.signal(signal.SIGINT).end() == 130
    assert time.monotonic() - interrupted < 15
    assert steps_saved(the_run(tmp_path)) == [1]
