"""Runs that were killed and go on, compared with one that was left alone."""

import json
import random
import shutil
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from agentrl.learning import checkpoint
from agentrl.records import open_run
from agentrl.records.recorder import Recorder
from agentrl.runs.run import Run
from agentrl.types import Call, Episode, Group
from experiments import ledger
from tests.support.checkout import ROOT
from tests.support.device import RUN_TOLERANCE, two_gpus
from tests.support.running import (
    EXPERIMENT,
    STEPS,
    TWO_RANKS,
    Running,
    are_equal,
    metrics,
    moments,
    repeatable,
    said_of,
    start,
    steps_saved,
    the_run,
    weights,
)
from tests.support.sizes import sizes


def make_checkpoints(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / "checkpoints" / f"step-{step:05d}").mkdir(parents=True)


def test_the_newest_checkpoint_is_of_the_highest_step(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    assert checkpoint.newest(checkpoints) is None
    make_checkpoints(tmp_path, 9, 100, 20)
    (checkpoints / ".step-00200").mkdir()
    assert checkpoint.step_of(checkpoint.newest(checkpoints)) == 100


@pytest.mark.parametrize(
    ("keep_last", "best", "kept"),
    [(1, None, [5]), (2, 5, [4, 5]), (2, 2, [2, 4, 5]), (9, 1, [1, 2, 3, 4, 5])],
)
def test_the_last_checkpoints_and_the_best_are_kept(tmp_path, keep_last, best, kept):
    make_checkpoints(tmp_path, 1, 2, 3, 4, 5)
    checkpoint.prune(tmp_path / "checkpoints", keep_last, best)
    assert steps_saved(tmp_path) == kept


def a_run(folder: Path) -> Run:
    run = Run.create(folder, "mine", json.dumps({"steps": 3, "optim": {"lr": 0.1}}), model="m")
    for step in range(4):
        run.log({"step": step, "eval/success": [0.5, 0.7, 0.7, 0.6][step]})
        record(run, step)
    return run


def record(run: Run, step: int) -> None:
    call = Call(prompt_ids=[1], completion_ids=[2, step], logprobs=[0.0, -1.0])
    episode = Episode(task={"id": "t"}, index=0, calls=(call,))
    recorder = Recorder(run.records)
    recorder.add(step, [Group({"id": "t"}, (episode,))])
    recorder.close()


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path):
    made = a_run(tmp_path)
    with (made.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "eval/su')
    config = json.dumps({"steps": 5, "optim": {"lr": 0.1, "warmup": 2}})
    run = Run.reopen(made.folder, "mine")
    assert run.go_on(2, config) == {"steps": (3, 5), "optim.warmup": (None, 2)}
    assert [row["step"] for row in run.rows] == [0, 1, 2]
    assert metrics(run.folder) == run.rows
    kept = open_run(run.folder)
    said = [e.calls[0].completion_ids.tolist() for s in kept.steps() for e in kept.read_step(s)]
    assert said == [[2, 0], [2, 1], [2, 2]]
    assert run.best_step("eval/success") == 2
    described = json.loads((run.folder / "config.json").read_text())
    assert described["config"]["steps"] == 3
    (resumed,) = described["resumed"]
    assert (resumed["after_step"], resumed["config"]["steps"]) == (2, 5)
    # Without a checkpoint, from the start.
    assert run.go_on(None, config)["steps"] == (3, 5)
    assert run.rows == metrics(run.folder) == kept.steps() == []


def test_what_was_logged_of_a_step_is_replaced(tmp_path):
    run = a_run(tmp_path)
    run.log({"step": 3, "eval/success": 0.9})
    run.log({"step": 4})
    assert [row["step"] for row in run.rows] == [0, 1, 2, 3, 4]
    assert metrics(run.folder) == run.rows
    assert run.best_step("eval/success") == 3
    run.log({"step": 5, "eval/hard/success": 0.1})
    assert (run.best_step("eval/hard/success"), run.best_step("eval/none")) == (5, None)


def test_a_second_rank_writes_nothing(tmp_path):
    made = a_run(tmp_path)
    before = {p: p.read_bytes() for p in made.folder.rglob("*") if p.is_file()}
    run = Run.reopen(made.folder, "mine", writes=False)
    run.go_on(1, json.dumps({"steps": 9}))
    run.log({"step": 2})
    run.draw_curve()
    assert [row["step"] for row in run.rows] == [0, 1, 2]
    assert {p: p.read_bytes() for p in made.folder.rglob("*") if p.is_file()} == before


def test_what_is_no_run_or_another_experiments_is_refused(tmp_path):
    made = a_run(tmp_path)
    with pytest.raises(ValueError, match="is a run of mine, not of yours: use --exp mine"):
        Run.reopen(made.folder, "yours")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is not the folder of a run"):
            Run.reopen(folder, "mine")
    (made.folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        Run.reopen(made.folder, "mine")


def records(run: Path) -> dict[int, list[tuple]]:
    """Of each step's calls: ids, the sampler's log-probabilities, the trainer's."""
    kept = open_run(run)
    return {
        step: [
            (c.completion_ids.tolist(), c.sampler_logprobs.tolist(), c.trainer_logprobs.tolist())
            for episode in kept.read_step(step)
            for c in episode.calls
            if c.in_loss
        ]
        for step in kept.steps()
    }


def largest_gap(calls: list[tuple]) -> float:
    return max(
        abs(np.float32(mine) - np.float32(theirs)).max() for _, mine, theirs in calls if mine
    )


@pytest.mark.parametrize("kills", sizes(2, soak=20))
def test_killed_at_random_moments_it_ends_as_if_left_alone(
    tmp_path, tiny_folder, left_alone, kills
):
    """Killed while it loads, samples, trains, saves. Whenever it ends, it starts anew."""
    rng, killed, ends, steps = random.Random(0), 0, 0, STEPS if kills == 2 else 24
    alone = left_alone(steps)
    while killed < kills or ends == 0:
        folder = tmp_path / str(ends)
        folder.mkdir(exist_ok=True)
        # Not before it has a folder: there would be nothing to go on with.
        resume = ("--resume", the_run(folder)) if list(folder.glob("runs/*/*")) else ()
        flags = (*repeatable(steps), *resume)
        run = start(folder, tiny_folder, *flags, afresh=True).wait_for("run: ")
        if killed < kills and is_a_moment(run, folder, steps, rng, loading=killed % 2 == 0):
            run.kill()
            killed += 1
            continue
        assert run.end() == 0, run.said
        assert metrics(the_run(folder)) == metrics(alone)
        assert are_equal(weights(the_run(folder)), weights(alone))
        assert are_equal(moments(the_run(folder)), moments(alone))
        assert records(the_run(folder)) == records(alone)
        ends += 1


def is_a_moment(
    run: Running, folder: Path, steps: int, rng: random.Random, *, loading: bool
) -> bool:
    """Wait for a moment while it loads, or after one of the steps that it has left to do; False
    where it has ended before."""
    done = max(steps_saved(the_run(folder)), default=0)
    if not loading and done < steps:
        run.wait_for(said_of(rng.randint(done + 1, steps), steps))
    moment = time.monotonic() + rng.uniform(0, 4.0 if loading else 0.5)
    while time.monotonic() < moment and run.process.poll() is None:
        time.sleep(0.01)
    return run.process.poll() is None


@pytest.mark.slow
def test_another_random_state_would_be_noticed(tmp_path, tiny_folder, left_alone):
    """Of each generator by itself; and where nothing is changed, nothing changes."""
    alone = left_alone(STEPS)
    perturbations = {
        "python": lambda state: random.Random(1).getstate(),
        "torch": lambda state: torch.Generator().manual_seed(1).get_state(),
        None: None,
    }
    for name, perturb in perturbations.items():
        run = go_back(alone, tmp_path / str(name), STEPS - 2)
        file = run / "checkpoints" / f"step-{STEPS - 2:05d}" / "resume" / "rank-0.pt"
        if name:
            state = torch.load(file, weights_only=False)
            torch.save({**state, name: perturb(state[name])}, file)
        resumed = start(tmp_path / str(name), tiny_folder, *repeatable(STEPS), "--resume", run)
        assert resumed.end() == 0, resumed.said
        is_same = name is None
        assert are_equal(weights(run), weights(alone)) == is_same
        assert (metrics(run) == metrics(alone)) == is_same


def go_back(run: Path, folder: Path, step: int) -> Path:
    """A copy of a run, as it was when it had just saved this step."""
    copy = folder / "runs" / run.parent.name / run.name
    shutil.copytree(run, copy)
    for later in steps_saved(copy):
        if later > step:
            shutil.rmtree(copy / "checkpoints" / f"step-{later:05d}")
    return copy


CURRICULUM = str(ROOT / "tests" / "ideas" / "curriculum.py")
REMEMBERING = (
    *("--algorithm", "rae", "--judge", f"{EXPERIMENT}:judge", "--deterministic"),
    *("--steps", "3", "--save-every", "1", "--tasks-per-step", "2", "--group-size", "4"),
    *("--sampling.max-tokens", "24", "--eval.every", "3", "--eval.num-tasks", "4"),
)


@pytest.mark.slow
def test_what_remembers_is_killed_and_goes_on(tmp_path, tiny_folder):
    """An algorithm, RAE's means, and a seam, a curriculum's counts; were either another, so would
    be the rest of the run."""

    def started(folder: Path, *flags: str | Path, **options) -> Running:
        flags = (*REMEMBERING, *flags)
        return start(folder, tiny_folder, *flags, experiment=CURRICULUM, **options)

    whole, killed = started(tmp_path / "whole"), started(tmp_path / "killed")
    killed.wait_for(said_of(1, 3))
    again = the_run(tmp_path / "killed")
    while not steps_saved(again) and killed.process.poll() is None:
        time.sleep(0.01)
    killed.kill()
    assert steps_saved(again)[-1] < 3
    killed = started(tmp_path / "killed", "--resume", again, afresh=True)
    assert [run.end() for run in (whole, killed)] == [0, 0], whole.said + killed.said
    alone = the_run(tmp_path / "whole")
    assert remembered(again) == remembered(alone)
    assert sum(tried for _, tried in remembered(alone)["batches"].values()) == 3 * 2 * 4
    assert metrics(again) == metrics(alone)
    assert are_equal(weights(again), weights(alone))
    assert are_equal(moments(again), moments(alone))
    assert records(again) == records(alone)
    before = remembered(go_back(alone, tmp_path / "before", 2))
    now = remembered(alone)["batches"]
    # No means; and as if what was drawn last had been tried in vain a million times.
    vain = {kind: [0, 10**6] for kind in now if now[kind] != before["batches"].get(kind)}
    others = before["batches"] | vain
    for name, state in {"algorithm": {}, "batches": others}.items():
        run = go_back(alone, tmp_path / name, 2)
        seams = run / "checkpoints" / "step-00002" / "resume" / "seams.json"
        seams.write_text(json.dumps({**before, name: state}))
        resumed = started(tmp_path / name, "--resume", run)
        assert resumed.end() == 0, resumed.said
        assert not are_equal(weights(run), weights(alone))
        # The means change what is made of the same episodes; the counts, whose they are.
        assert (drawn(run, 3) == drawn(alone, 3)) == (name == "algorithm")


def drawn(run: Path, step: int) -> list[list[list[int]]]:
    """Of each episode of a step what each call said."""
    episodes = open_run(run).read_step(step)
    return [[call.completion_ids.tolist() for call in episode.calls] for episode in episodes]


def remembered(run: Path) -> dict:
    """By the newest checkpoint."""
    resume = run / "checkpoints" / f"step-{steps_saved(run)[-1]:05d}" / "resume"
    found = json.loads((resume / "seams.json").read_text())
    assert set(found) == {"algorithm", "batches"}
    assert all(found.values())
    return found


@two_gpus
@pytest.mark.slow
def test_two_ranks_go_on_from_one_and_keep_few_checkpoints(tmp_path, tiny_folder, left_alone):
    run = go_back(left_alone(STEPS), tmp_path, 3)
    assert steps_saved(run) == [1, 2, 3]
    flags = (*repeatable(STEPS), "--steps", "6", "--keep-last", "2", "--resume", run)
    second = start(tmp_path, tiny_folder, *flags, launch=TWO_RANKS)
    assert second.end() == 0, second.said
    assert "after step 3" in second.said
    assert f"warning: steps was {STEPS} and is 6 from here on" in second.said
    assert "warning: the checkpoint is of 1 ranks and this run has 2" in second.said
    assert [row["step"] for row in metrics(run)] == list(range(7))
    assert all(row["gap/max_abs_logprob"] < RUN_TOLERANCE for row in metrics(run)[1:])
    # What each rank measured has found its tokens.
    gaps = {row["step"]: row["gap/max_abs_logprob"] for row in metrics(run)[1:]}
    assert {step: largest_gap(calls) for step, calls in records(run).items() if calls} == gaps
    # The last is evaluated when it has been saved.
    best = max(
        (r for r in metrics(run)[:-1] if "eval/success" in r),
        key=lambda r: (r["eval/success"], r["step"]),
    )["step"]
    assert steps_saved(run) == sorted({5, 6} | ({best} & {1, 2, 3, 4}))
    assert len(list((run / "checkpoints" / "step-00006" / "resume").glob("*.distcp"))) == 2


@two_gpus
@pytest.mark.slow
def test_more_ranks_than_tasks_is_a_sentence(tmp_path, tiny_folder):
    flags = ("--exp", EXPERIMENT, "--model.path", tiny_folder, "--tasks-per-step", "1")
    run = Running(tmp_path / "log", *flags, "--runs", tmp_path, launch=("--quiet", *TWO_RANKS))
    assert run.end() == 1
    assert "error: 2 ranks share tasks_per_step 1: launch fewer processes" in run.said


@two_gpus
@pytest.mark.slow
def test_two_ranks_stop_early_at_one_step(tmp_path, tiny_folder):
    """Nothing rises where nothing is judged right; a run that has stopped can go on, too."""
    experiment = tmp_path / "hopeless.py"
    experiment.write_text(
        textwrap.dedent("""
            import dataclasses
            from tests.support import drawn_rewards

            async def judge(task, response, episode):
                verdict = await drawn_rewards.judge(task, response, episode)
                return dataclasses.replace(verdict, success=False)

            config = dataclasses.replace(drawn_rewards.config, judge=judge)
        """)
    )
    flags = ("--steps", "8", "--eval.every", "1", "--eval.patience", "2", "--eval.num-tasks", "2")
    options = {"experiment": str(experiment), "launch": TWO_RANKS}
    run = start(tmp_path, tiny_folder, *flags, **options)
    assert run.end() == 0, run.said
    assert run.said.count("stopped early: eval/success has not risen in 2 evaluations") == 1
    folder = the_run(tmp_path)
    assert [row["step"] for row in metrics(folder)] == [0, 1, 2]
    assert [row["eval/success"] for row in metrics(folder)] == [0, 0, 0]
    # Both had to write it; and the summary comes, as of any whole run.
    assert steps_saved(folder) == [2]
    assert len(list((folder / "checkpoints/step-00002/resume").glob("rank-*.pt"))) == 2
    assert "wall clock" in run.said
    assert ledger.finished(folder).rows[-1]["step"] == 2
    # What is not measured is told at the first evaluation.
    other = ("--eval.best", "eval/habit/none")
    run = start(tmp_path / "b", tiny_folder, *flags, *other, experiment=str(experiment))
    assert run.end() == 1
    assert "error: eval.best is eval/habit/none, which is not measured: choose of" in run.said
