"""Summary of a run: a line after every step, and tables at the end."""

import shlex
from collections.abc import Sequence
from typing import Any

from agentrl.runs.metrics import Clock
from agentrl.runs.progress import Display, duration
from agentrl.runs.run import Run

PHASES = ("model", "load", "rollout", "train", "sync", "eval", "save")


def step_line(rows: Sequence[dict[str, Any]], num_steps: int) -> str:
    """The last row in a line, with the time that is left at the mean pace so far.

    >>> step_line([{"step": 0, "eval/success": 0.5, "time/step_seconds": 2.0}], 10)
    'step  0/10  held-out 0.500  2.0s'
    """
    row = rows[-1]
    width = len(str(num_steps))
    parts = [f"step {row['step']:>{width}}/{num_steps}"]
    for name, label, form in (
        ("reward/mean", "reward", ".3f"),
        ("grad_norm", "grad", ".2f"),
        ("gap/max_abs_logprob", "gap", ".0e"),
        ("eval/success", "held-out", ".3f"),
    ):
        if name in row:
            parts.append(f"{label} {row[name]:{form}}")
    failed = row.get("episodes/error", 0) + row.get("episodes/timeout", 0)
    if failed:
        parts.append(f"{failed} failed ({row['failure']})")
    parts.append(f"{row['time/step_seconds']:.1f}s")
    trained = [r["time/step_seconds"] for r in rows if r["step"] > 0]
    left = num_steps - row["step"]
    if trained and left:
        parts.append(f"ETA {duration(sum(trained) / len(trained) * left)}")
    return "  ".join(parts)


def own_measures(row: dict[str, Any]) -> list[str]:
    """The held-out measures that agents and the experiment bring themselves.

    >>> own_measures({"eval/success": 1.0, "eval/reward/mean": 1.0, "eval/reward/solver": 1.0})
    ['eval/reward/solver']
    """
    ours = {"eval/success", "eval/reward/mean", "eval/failure"}
    own = (name for name in row if name.startswith("eval/") and name not in ours)
    return sorted(name for name in own if not name.startswith("eval/episodes/"))


def summary(display: Display, experiment: str, run: Run, startup: Clock) -> None:
    """Held-out measures before and after, where the time went, and what to do next.

    experiment: its name, or its file as it was given.
    """
    evaluated = [row for row in run.rows if "eval/success" in row]
    if evaluated:
        before, after = evaluated[0], evaluated[-1]
        shown = ["eval/success", *own_measures(before)]
        display.table(
            "held-out tasks",
            ("", "before", "after"),
            [(n, f"{before[n]:.3f}", f"{after[n]:.3f}") for n in shown if n in after],
        )
    timed = [startup.metrics(), *run.rows]
    spent = [
        (phase, sum(row.get(f"time/{phase}_seconds", 0.0) for row in timed)) for phase in PHASES
    ]
    total = startup.metrics()["time/step_seconds"]
    display.table(
        f"wall clock {duration(total)}",
        ("phase", "seconds"),
        [(phase, f"{seconds:.1f}") for phase, seconds in spent],
    )
    checkpoints = sorted(run.checkpoints.glob("step-*"))
    display.line(f"run         {run.folder}")
    display.line(f"curve       {run.folder / 'curve.png'}")
    display.line(
        f"talk to it  python rollout.py --exp {shlex.quote(experiment)} --num-tasks 3 "
        f"--checkpoint {shlex.quote(str(checkpoints[-1]))}"
    )
