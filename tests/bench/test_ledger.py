"""Finished runs, their row in the ledger and their picture."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from agentrl.runs import curve
from experiments import ledger
from tests.support.checkout import ROOT


def rows_of(seed: int, before: float, after: float, seconds: float) -> list[dict]:
    return [
        {"step": 0, "eval/success": before, "time/step_seconds": 2.0},
        {"step": 1, "reward/mean": 0.5, "habit/x": 0.1 * seed, "time/step_seconds": seconds},
        {
            "step": 2,
            "reward/mean": 0.75,
            "tokens/trained": 1000 + seed,
            "eval/success": after,
            "eval/failure": None,
        },
    ]


def make_run(folder: Path, number: int, rows: list[dict], **settings) -> Path:
    folder = folder / f"2026112{number}-120000"
    folder.mkdir()
    config = {"seed": number, "steps": 2, "epochs": None, "eval": {"every": 2}, "runs": "r"}
    described = {
        **{"experiment": "mine", "commit": "0123456789abcdef", "hardware": "an abacus"},
        **{"command": f"train.py --exp mine --seed {number} --model.path 'a b'", "resumed": []},
        **{"config": config | settings},
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def call(monkeypatch, tmp_path):
    """The command, over a page of the test's own."""
    monkeypatch.setattr(ledger, "PAGE", tmp_path / "README.md")

    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["ledger", *map(str, argv)])
        ledger.main()

    return call


def test_a_row_and_a_picture(call, tmp_path, capsys):
    measured = [(0, 0.44, 0.975, 100.0), (1, 0.4, 0.975, 110.0), (2, 0.525, 0.96, 120.0)]
    runs = [make_run(tmp_path, one[0], rows_of(*one), runs=f"r{one[0]}") for one in measured]
    row = (
        "| [mine](curves/mine-20261122-120000.png) | in step | 0, 1, 2 | `eval/success` | "
        "0.455 ± 0.064 | 0.970 ± 0.009 | 112 ± 10 s | 1,001 ± 1 | an abacus | 0123456789 | "
        "`train.py --exp mine --model.path 'a b' --seed N` |"
    )
    call(*runs)
    assert capsys.readouterr().out.startswith(f"{row}\nis in ")
    assert Image.open(tmp_path / "curves/mine-20261122-120000.png").size == (1050, 600)
    # Of one run alone; what another was worth stays where it is.
    sure = rows_of(*measured[0])
    sure[0] |= {"eval/success/low": 0.4, "eval/success/high": 0.48}
    (tmp_path / "alone").mkdir()
    call(make_run(tmp_path / "alone", 0, sure))
    first, second = (tmp_path / "README.md").read_text().splitlines()
    assert (first, " | 0.440 [0.400, 0.480] | 0.975 | 102 s | 1,000 | " in second) == (row, True)
    # As many columns as the table has, which ends the page.
    page = (ROOT / "experiments/README.md").read_text()
    assert page.splitlines()[-1].count(" | ") == row.count(" | ")
    names = [entry["experiment"] for entry in ledger.entered(page)]
    assert [name.partition("]")[0] for name in names[:2]] == ["[gsm8k_offline", "[countdown"]


def test_the_intervals_of_all_seeds_are_held(call, tmp_path, capsys):
    runs = []
    for seed, low in enumerate((0.35, 0.3)):
        rows = rows_of(seed, 0.4, 0.5, 1.0)
        rows[0] |= {"eval/success/low": low, "eval/success/high": low + 0.15}
        runs.append(make_run(tmp_path, seed, rows))
    call(*runs)
    assert "| 0.400 ± 0.000 [0.300, 0.500] | 0.500 ± 0.000 |" in capsys.readouterr().out


def test_a_picture_over_commits(call, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, errorbar = [], Axes.errorbar

    def noted(self, x, y, bars, **style):
        drawn.append((style["label"], style["fillstyle"], list(x), list(y), list(bars)))
        return errorbar(self, x, y, bars, **style)

    for number, (name, after) in enumerate([("mine", 0.5), ("other", 1.0), ("mine", 0.75)]):
        (tmp_path / f"{number}").mkdir()
        run = make_run(tmp_path / f"{number}", 0, rows_of(0, 0.25, after, 1.0))
        described = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(described | {"experiment": name}))
        monkeypatch.setattr(Axes, "errorbar", noted)
        drawn.clear()
        call(run)
    assert drawn == [
        (None, "none", [0, 2], [0.25, 0.25], [0.0, 0.0]),
        ("mine", "full", [0, 2], [0.5, 0.75], [0.0, 0.0]),
        (None, "none", [1], [0.25], [0.0]),
        ("other", "full", [1], [1.0], [0.0]),
    ]
    assert Image.open(tmp_path / "curves/commits.png").size == (1050, 600)


def test_a_run_of_a_changed_checkout_is_refused(call, tmp_path):
    run = make_run(tmp_path, 0, rows_of(0, 0.25, 0.5, 1.0))
    for commit in ("0123456789abcdef-dirty", None):
        described = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(described | {"commit": commit}))
        with pytest.raises(SystemExit, match="is of a checkout with changes, which nobody can get"):
            call(run)
    assert not (tmp_path / "README.md").exists()


def test_runs_that_stopped_early_are_finished(call, tmp_path, capsys):
    """Each where it may; one that has not, and is short, is not."""
    stops = {"steps": 9, "eval": {"every": 1, "best": "eval/success", "patience": 1}}
    fell = [
        rows_of(0, 0.5, 0.5, 1.0),
        [*rows_of(1, 0.5, 0.6, 1.0), {"step": 3, "eval/success": 0.1}],
    ]
    call(*(make_run(tmp_path, seed, rows, **stops) for seed, rows in enumerate(fell)))
    assert "| 0.300 ± 0.283 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has come to step 2 and is not finished"):
        call(make_run(tmp_path, 2, rows_of(2, 0.5, 0.6, 1.0), **stops))


@pytest.mark.parametrize(
    ("rows", "settings", "sentence"),
    [
        (
            rows_of(1, 0, 1, 1)[:2],
            {},
            "has come to step 1 and is not finished: give --resume .*121",
        ),
        (rows_of(1, 0, 1, 1)[:2], {"epochs": 1}, "the runs differ in end: give those of one"),
        ([], {}, "has come to step 0 and is not finished"),
        (rows_of(1, 0, 1, 1), {"optim": {"lr": 1}}, "the runs differ in optim.lr: give those of"),
        (rows_of(1, 0, 1, 1), {"seed": 0}, "two of the runs have one seed: give one run of each"),
    ],
)
def test_runs_that_do_not_count(call, tmp_path, rows, settings, sentence):
    first = make_run(tmp_path, 0, rows_of(0, 0, 1, 1))
    with pytest.raises(SystemExit, match=f"error: .*{sentence}"):
        call(first, make_run(tmp_path, 1, rows, **settings))


def test_what_is_no_run(call, tmp_path):
    with pytest.raises(SystemExit, match="curves is not the folder of a run .*config.json"):
        call(tmp_path / "curves")
    # By epochs, or without an evaluation, what ended is a run.
    for seed, settings in enumerate(({"steps": None}, {"epochs": 1}, {"eval": {"every": None}})):
        rows = rows_of(seed, 0, 1, 1)
        assert ledger.finished(make_run(tmp_path, seed, rows, **settings)).rows == rows


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
    rows = [rows_of(0, 0.25, 0.75, 1.0), rows_of(1, 0.75, 1.0, 1.0)]
    curve.draw(tmp_path / "two.png", "two", rows)
    assert drawn["held-out success"] == [([0, 2], [0.5, 0.875])]
    assert drawn["habit/x"] == [([1], [0.05])]
    of_success = next(band for band in bands if band[0] == [0, 2])
    assert of_success[1] == pytest.approx([0.5 - 0.125**0.5, 0.875 - 0.03125**0.5])
    assert of_success[2] == pytest.approx([0.5 + 0.125**0.5, 0.875 + 0.03125**0.5])
    # One run is its own mean, without a band.
    drawn.clear()
    bands.clear()
    curve.draw(tmp_path / "one.png", "one", rows[:1])
    assert (drawn["held-out success"], bands) == ([([0, 2], [0.25, 0.75])], [])
    # But for its interval, of success alone.
    sure = {"low": 0.2, "high": 0.4}
    ends = {
        f"eval/{name}/{end}": at for name in ("success", "reward/mean") for end, at in sure.items()
    }
    drawn.clear()
    curve.draw(tmp_path / "sure.png", "sure", [[rows[0][0] | ends, *rows[0][1:]]])
    assert bands == [([0], [0.2], [0.4])]
    assert set(drawn) == {"training reward", "held-out success", "habit/x"}
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
