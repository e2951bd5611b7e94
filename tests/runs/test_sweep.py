"""Runs over seeds, their row in the ledger and their picture."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from agentrl.runs import sweep
from agentrl.runs import curve
from agentrl.runs.progress import Display
from agentrl.runs.sweep import HEADER, Done
from tests.support.running import EXPERIMENT, ROOT, metrics

SHORT = ("--steps", "2", "--eval.every", "2", "--eval.num-tasks", "4")


def a_run(seed: int, before: float, after: float, seconds: float) -> Done:
    rows = [
        {"step": 0, "eval/success": before},
        {"step": 1, "reward/mean": 0.5, "habit/x": 0.1 * seed},
        {"step": 2, "reward/mean": 0.75, "eval/success": after},
    ]
    return Done(seed, seconds, rows, "0123456789abcdef-dirty")


def test_a_row_and_where_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "hardware", lambda: "an abacus")
    done = [a_run(0, 0.44, 0.975, 100.0), a_run(1, 0.4, 0.975, 110.0), a_run(2, 0.525, 0.96, 120.0)]
    argv = ["--exp", "mine", "--model.path", "a b"]
    row = sweep.ledger_row("mine", "curves/mine.png", 4, done, argv)
    assert row == (
        "| [mine](curves/mine.png) | 0, 1, 2 (1 failed) | `eval/success` | 0.455 ± 0.064 | "
        "0.970 ± 0.009 | 110 ± 10 s | an abacus | 0123456789 with changes | "
        "`python -m agentrl.runs.sweep --exp mine --model.path 'a b'` |"
    )
    ledger = tmp_path / "README.md"
    ledger.write_text("# Ledger\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    sweep.enter(ledger, row)
    ledger.write_text(f"{ledger.read_text()}\n## Written by hand\n")
    sweep.enter(ledger, "| second |")
    lines = ledger.read_text().splitlines()
    assert lines[:6] == ["# Ledger", "", "| a | b |", "|---|---|", "| 1 | 2 |", ""]
    header = lines.index(HEADER)
    # As many columns as names, in each line of the table.
    assert {line.count(" | ") for line in (HEADER, row)} == {lines[header + 1].count("|") - 2}
    assert lines[header + 2 :] == [row, "| second |", "", "## Written by hand"]


def test_a_picture_over_seeds(tmp_path, monkeypatch):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    drawn, bands = {}, []
    plot, fill = Axes.plot, Axes.fill_between

    def noted_plot(self, x, y, **style):
        drawn.setdefault(style.get("label"), []).append((list(x), list(y)))
        return plot(self, x, y, **style)

    def noted_fill(self, x, low, high, **style):
        bands.append((list(x), list(low), list(high)))
        return fill(self, x, low, high, **style)

    monkeypatch.setattr(Axes, "plot", noted_plot)
    monkeypatch.setattr(Axes, "fill_between", noted_fill)
    rows = [a_run(0, 0.25, 0.75, 1.0).rows, a_run(1, 0.75, 1.0, 1.0).rows]
    curve.draw(tmp_path / "two.png", "two", rows)
    assert drawn["held-out success"] == [([0, 2], [0.5, 0.875])]
    assert drawn["habit/x"] == [([1], [0.05])]
    # Each seed, thin.
    assert ([0, 2], [0.25, 0.75]) in drawn[None]
    assert ([0, 2], [0.75, 1.0]) in drawn[None]
    of_success = next(band for band in bands if band[0] == [0, 2])
    assert of_success[1] == pytest.approx([0.5 - 0.125**0.5, 0.875 - 0.03125**0.5])
    assert of_success[2] == pytest.approx([0.5 + 0.125**0.5, 0.875 + 0.03125**0.5])
    # One run is its own mean, with neither.
    drawn.clear()
    bands.clear()
    curve.draw(tmp_path / "one.png", "one", rows[:1])
    assert (drawn["held-out success"], None in drawn, bands) == (
        [([0, 2], [0.25, 0.75])],
        False,
        [],
    )
    # Rewards may be anything, and are all in the picture.
    limits = []
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: limits.append(f.axes[0].get_ylim()))
    wide = [{"step": 0, "reward/mean": -2.0}, {"step": 1, "reward/mean": 5.0}]
    curve.draw(tmp_path / "wide.png", "wide", [wide])
    curve.draw(tmp_path / "shares.png", "shares", rows[:1])
    (low, high), of_shares = limits
    assert low < -2 < 5 < high
    assert of_shares == (0, 1)
    monkeypatch.undo()
    assert Image.open(tmp_path / "two.png").size == Image.open(tmp_path / "one.png").size


def test_a_seed_that_measured_nothing_does_not_count(tmp_path, capsys):
    """It was evaluated on nothing, or no episode could be scored: the other seeds go on."""
    trained = f"""
import sys, pathlib
from agentrl.runs.run import Run
run = Run.create(pathlib.Path({str(tmp_path)!r}), "mine", "{{}}")
seed = int(sys.argv[-1])
run.log({{"step": 0}} | ({{"eval/success": 0.5}} if seed else {{}}))
"""
    command = [sys.executable, "-c", trained]
    done = sweep.run_seeds(command, 2, tmp_path / "mine", Display())
    assert [run.seed for run in done] == [1]
    assert "seed 0 has measured nothing: neither eval/success nor reward/mean" in (
        capsys.readouterr().out
    )


def start(tmp_path: Path, tiny_folder: Path, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "agentrl.runs.sweep", "--ledger", tmp_path / "README.md"),
            *("--model.path", tiny_folder, "--runs", tmp_path / "runs", *flags),
        ],
        cwd=ROOT,
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_sweep_in_which_a_seed_fails(tmp_path, tiny_folder):
    experiment = tmp_path / "unlucky.py"
    experiment.write_text(
        textwrap.dedent("""
            import dataclasses, sys
            from tests.support import drawn_rewards

            def tasks(data):
                unlucky = any(a == "1" and b == "--seed" for b, a in zip(sys.argv, sys.argv[1:]))
                assert not unlucky, "an unlucky number"
                return drawn_rewards.config.tasks(data)

            config = dataclasses.replace(drawn_rewards.config, tasks=tasks)
        """)
    )
    process = start(tmp_path, tiny_folder, "--exp", str(experiment), "--seeds", "3", *SHORT)
    said = (tmp_path / "log").read_text if process.wait(400) == 0 else None
    assert said, (tmp_path / "log").read_text()
    assert "seed 1 failed with exit status 1" in said()
    assert "AssertionError: an unlucky number" in said()
    runs = sorted((tmp_path / "runs").glob("sweeps/*/unlucky/*"))
    finals = [
        [row["eval/success"] for row in metrics(run) if "eval/success" in row] for run in runs
    ]
    assert [len(final) for final in finals] == [2, 2]
    (row,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if "[" in line]
    cells = row.split(" | ")
    assert cells[1:3] == ["0, 2 (1 failed)", "`eval/success`"]
    before, after = (sum(values) / 2 for values in zip(*finals, strict=True))
    assert [cells[3][:5], cells[4][:5]] == [f"{before:.3f}", f"{after:.3f}"]
    assert re.fullmatch(r"\d+ ± \d+ s", cells[5])
    (picture,) = (tmp_path / "curves").iterdir()
    assert f"](curves/{picture.name})" in cells[0]
    assert Image.open(picture).size == (1050, 600)
    for run in runs:
        assert "experiment/unlucky.py" in zipfile.ZipFile(run / "source.zip").namelist()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGKILL"])
def test_a_sweep_that_is_interrupted_leaves_no_process(tmp_path, tiny_folder, how):
    flags = ("--exp", EXPERIMENT, "--seeds", "2", "--steps", "500")
    process = start(tmp_path, tiny_folder, *flags)
    log, deadline = tmp_path / "log", time.monotonic() + 200
    while "step   1/500" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert [child for child in children if str(ROOT / "train.py") in child.cmdline()]
    if how == "Ctrl-C":
        # A terminal tells all of them.
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    assert process.wait(60) == (130 if how == "Ctrl-C" else -signal.SIGKILL), log.read_text()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert "go on with --resume" in log.read_text()
    assert not (tmp_path / "README.md").exists()
