"""One engine over two ranks samples what an engine of one rank would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.device import RUN_TOLERANCE, TOLERANCE, two_gpus
from tests.support.running import EXPERIMENT, STEPS, TWO_RANKS, Running, metrics, start, the_run

pytestmark = two_gpus


@pytest.mark.slow
def test_two_ranks_hold_one_engine(tmp_path, tiny_folder, left_alone):
    flags = ("--steps", "2", "--deterministic", "--engine.tensor-parallel-size", "2")
    run = start(tmp_path, tiny_folder, *flags, launch=TWO_RANKS)
    assert run.end() == 0, run.said
    both, alone = metrics(the_run(tmp_path)), metrics(left_alone(STEPS))
    assert len(both) == 3
    for mine in both:
        # What the sampler drew from is the trainer's model, put together from both halves.
        assert mine["gap/probe"] < RUN_TOLERANCE
        assert mine["step"] == 0 or mine["gap/max_abs_logprob"] < RUN_TOLERANCE
    # Before the first update, and until rounding draws another token, the same tokens.
    for name in ("reward/mean", "tokens/logical", "tokens/unique", "tokens/trained"):
        assert both[1][name] == alone[1][name]


@pytest.mark.slow
def test_two_runs_on_one_machine_share_nothing(tmp_path, tiny_folder):
    """On CPUs, ranks add up in memory that has a name."""
    flags = ("--steps", "2", "--engine.tensor-parallel-size", "2")
    before = {*Path("/dev/shm").glob("*cpushm*")}
    runs = [start(tmp_path / n, tiny_folder, *flags, launch=TWO_RANKS) for n in ("one", "two")]
    for name, run in zip(("one", "two"), runs, strict=True):
        assert run.end() == 0, run.said
        rows = metrics(the_run(tmp_path / name))
        assert max(row["gap/probe"] for row in rows) < RUN_TOLERANCE
    assert {*Path("/dev/shm").glob("*cpushm*")} <= before


@pytest.mark.slow
def test_a_cancelled_call_leaves_every_rank(tmp_path, tiny_folder):
    """A rank that kept it would from then on step with another batch than its peer."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", *TWO_RANKS]
    run = subprocess.run(
        [*launch, "-m", "tests.support.engine_worker", str(tiny_folder), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-10000:]
    leader, follower = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert (leader["unfinished"], follower["unfinished"]) == (0, 0)
    before, after = leader["drawn"]
    assert before == after
    assert len({tuple(ids) for ids in before}) > 1
    assert leader["scores"] == follower["scores"]
    # A push has no more of a model whole than one layer, and casts a shard before it is gathered.
    for push in (*leader["pushes"], *follower["pushes"]):
        assert push["gap"] < TOLERANCE
        assert 0 < push["whole at once"] <= push["a layer"]
        assert push["gathered"] == ["torch.bfloat16"]


@pytest.mark.slow
def test_ranks_that_do_not_divide_into_engines_are_refused(tmp_path, tiny_folder):
    flags = ("--exp", EXPERIMENT, "--model.path", tiny_folder, "--engine.tensor-parallel-size", "3")
    run = Running(tmp_path / "log", *flags, launch=TWO_RANKS)
    assert run.end() == 1
    assert (
        "error: engine.tensor_parallel_size is 3, which does not divide the 2 ranks: "
        "launch a multiple of it with --num_processes"
    ) in run.said
