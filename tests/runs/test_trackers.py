"""What TensorBoard, Weights & Biases and SwanLab get of a run, read back from their files."""

import importlib.util
import json
import math
import re
import signal
from pathlib import Path

import pytest
from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker
from swanlab.proto.swanlab.run.v1.run_pb2 import RUN_STATE_CRASHED

from agentrl.records import open_run
from agentrl.runs.run import Run
from agentrl.runs.trackers import Trackers, check_trackers, numbers
from tests.support import tracked
from tests.support.metrics_page import described
from tests.support.running import EXPERIMENT, Running, metrics

ALL = ("tensorboard", "wandb", "swanlab")
READERS = {name: getattr(tracked, name) for name in ALL}


@pytest.fixture
def offline(monkeypatch):
    """wandb reads its variables once in a process."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    wandb.teardown()
    PartialState(cpu=True)
    yield
    wandb.teardown()


def row(step: int, **more) -> dict:
    own = {"loss": 0.1 * step, "lr": 8e-4 / 3, "eval/pass@2": 0.5, "failure": "none"}
    return {"step": step, **own, **more}


def compare(folder: Path) -> None:
    """What each tracker holds, with metrics.jsonl."""
    for name, read in READERS.items():
        assert are_same(read(folder), logged(folder)), (name, read(folder))


def wait_for_wandb() -> None:
    """Its service may still be writing what it was given, until it has ended."""
    import wandb

    wandb.teardown()


def make_run(folder: Path) -> Run:
    return Run.create(
        folder, "mine", json.dumps({"steps": 9, "optim": {"betas": [0.9, 0.95]}}), model="m"
    )


def logged(run: Path) -> tracked.Curves:
    """The numbers of metrics.jsonl."""
    curves: tracked.Curves = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        for name, value in numbers(values).items():
            curves.setdefault(name, {})[values["step"]] = value
    return curves


def are_same(mine: tracked.Curves, theirs: tracked.Curves) -> bool:
    """To the last bit; nan is nan."""
    return repr({n: sorted(mine[n].items()) for n in sorted(mine)}) == repr(
        {n: sorted(theirs[n].items()) for n in sorted(theirs)}
    )


def test_trackers_hold_what_metrics_jsonl_holds(tmp_path, offline):
    run, handler = make_run(tmp_path), signal.getsignal(signal.SIGINT)
    with Trackers((*ALL, "wandb")) as trackers:
        places = trackers.follow(run, [])
        assert [place.partition(":")[0] for place in places] == list(ALL)
        assert signal.getsignal(signal.SIGINT) == handler
        run.log(row(0, **{"eval/success": 1 / 3}))
        run.log(row(1, degenerate=True, grad_norm=math.inf))
        run.log(row(2, degenerate=False, grad_norm=math.nan))
    assert signal.getsignal(signal.SIGINT) == handler
    assert logged(run.folder)["grad_norm"][1] == math.inf
    wait_for_wandb()
    compare(run.folder)
    # The control: a value that is only nearly the same.
    assert not are_same({"loss": {0: 0.1}}, {"loss": {0: 0.1 + 1e-12}})
    assert_settings_are_known(run.folder)


def assert_settings_are_known(run: Path) -> None:
    given = {"steps": 9, "optim.betas": "[0.9, 0.95]"}
    (hyperparameters,) = (run / "tensorboard").glob("*/hparams.yml")
    assert hyperparameters.read_text() == "optim.betas: '[0.9, 0.95]'\nsteps: 9\n"
    updates = [u for r in tracked.wandb_records(run) for u in r.config.update]
    assert {u.key or u.nested_key[0]: json.loads(u.value_json) for u in updates} == given
    (config,) = (run / "swanlab").glob("*/files/config.yaml")
    for name, value in given.items():
        assert f"{name}:" in config.read_text()
        assert f"value: {value!r}" in config.read_text()


def fail_after_four_steps(run: Run) -> None:
    with Trackers(ALL) as trackers:
        trackers.follow(run, [])
        for step in range(4):
            run.log(row(step))
        raise OSError("disk")


def test_a_run_that_goes_on_is_in_them_as_in_its_file(tmp_path, offline):
    run = make_run(tmp_path)
    with pytest.raises(OSError, match="disk"):
        fail_after_four_steps(run)
    wait_for_wandb()
    # They know that it did not come to its end.
    (end,) = [r.exit for r in tracked.wandb_records(run.folder) if r.HasField("exit")]
    assert end.exit_code == 1
    (end,) = [r.finish for r in tracked.swanlab_records(run.folder) if r.HasField("finish")]
    assert (end.state, end.error) == (RUN_STATE_CRASHED, "OSError: disk")

    run = Run.reopen(run.folder, "mine")
    run.go_on(2, json.dumps({"steps": 9}))
    with Trackers(ALL) as trackers:
        # The last of them has its evaluation left to do.
        trackers.follow(run, run.rows[:-1])
        run.log(row(2, **{"eval/success": 0.5}))
        run.log({"step": 3, "loss": -1.0})
    assert [r["step"] for r in metrics(run.folder)] == [0, 1, 2, 3]
    wait_for_wandb()
    compare(run.folder)


def test_a_tracker_that_breaks_does_not_end_the_run(tmp_path, caplog, monkeypatch):
    def broken(self, values, step, **options):
        raise ConnectionResetError("lost")

    PartialState(cpu=True)
    run = make_run(tmp_path)
    with Trackers(["tensorboard"]) as trackers:
        trackers.follow(run, [])
        run.log(row(0))
        with monkeypatch.context() as patch:
            patch.setattr(TensorBoardTracker, "log", broken)
            run.log(row(1))
        run.log(row(2))
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "warning: tensorboard has broken off (ConnectionResetError: lost): it gets nothing more "
        "before a --resume; metrics.jsonl has it all"
    ]
    assert tracked.tensorboard(run.folder)["loss"] == {0: 0.0}
    assert [r["step"] for r in metrics(run.folder)] == [0, 1, 2]


@pytest.mark.slow
def test_a_real_run_in_all_of_them_and_on_the_page(tmp_path, tiny_folder):
    """Interrupted, and gone on with: what each of them holds is what metrics.jsonl holds."""
    flags = ("--exp", EXPERIMENT, "--model.path", tiny_folder, "--runs", tmp_path / "runs")
    options = {"environment": {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline"}}
    flags = (*flags, "--eval.every", "2", "--trackers", *ALL)
    run = Running(tmp_path / "log", *flags, "--steps", "500", **options).wait_for("step   2/500")
    assert run.signal(signal.SIGINT).end() == 130, run.said
    (folder,) = (tmp_path / "runs").glob("*/*")
    compare(folder)
    (end,) = [r.exit for r in tracked.wandb_records(folder) if r.HasField("exit")]
    assert end.exit_code == 1

    last = metrics(folder)[-1]["step"]
    flags = (*flags, "--steps", str(last + 2), "--resume", folder)
    run = Running(tmp_path / "log", *flags, **options)
    assert run.end() == 0, run.said
    assert "tensorboard: tensorboard --logdir" in run.said
    assert [row["step"] for row in metrics(folder)] == list(range(last + 3))
    compare(folder)
    assert len(logged(folder)) > 30

    trained = open_run(folder).episodes(held_out=False, limit=10_000)
    own = {name for row in trained for name in row.metrics}
    rows = map(json.loads, (folder / "metrics.jsonl").open())
    names = {name for row in rows for name in row} - own - {f"eval/{name}" for name in own}
    named = {name for name in described() if re.search("AGENT|PART|@K", name)}
    assert own == {"habit/no_print", "habit/impatient", "habit/malformed"}
    assert names == described() - named


def test_a_key_that_wandb_does_not_take(monkeypatch):
    import wandb

    def refuse(**options):
        raise wandb.errors.AuthenticationError("bad key")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse)
    wandb.teardown()
    with pytest.raises(ValueError, match="wandb, which cannot log in: run `wandb login`"):
        check_trackers(["wandb"])
    wandb.teardown()


def test_one_that_is_not_installed_or_that_nobody_is_logged_in_to(monkeypatch, tmp_path):
    import wandb

    for name in ("WANDB", "SWANLAB"):
        for variable in ("MODE", "API_KEY"):
            monkeypatch.delenv(f"{name}_{variable}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("wandb", "swanlab"):
        wandb.teardown()
        with pytest.raises(
            ValueError, match=f"has {name}, which cannot log in: run `{name} login`"
        ):
            check_trackers([name])
        wandb.teardown()
        with monkeypatch.context() as patch:
            patch.setenv(f"{name.upper()}_MODE", "offline")
            check_trackers([name])
    wandb.teardown()
    with monkeypatch.context() as patch:
        patch.setenv("SWANLAB_API_KEY", "k" * 40)
        check_trackers(["swanlab"])
    check_trackers(["tensorboard"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers has tensorboard, which is not installed"):
        check_trackers(["tensorboard"])
