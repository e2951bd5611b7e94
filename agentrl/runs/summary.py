"""Summary of a run: a line after every step, and tables at the end."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from agentrl.cli import experiment_names
from agentrl.learning import checkpoint
from agentrl.runs.evaluation import shown
from agentrl.runs.progress import Display, duration
from agentrl.runs.run import Run


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
    ):
        if name in row:
            parts.append(f"{label} {row[name]:{form}}")
    if "eval/success" in row:
        parts.append(f"held-out {shown(row, 'eval/success')}")
    failed = row.get("episodes/error", 0) + row.get("episodes/timeout", 0)
    if failed:
        parts.append(f"{failed} failed ({row['failure']})")
    parts.append(f"{row['time/step_seconds']:.1f}s")
    trained = [r["time/step_seconds"] for r in rows if r["step"] > 0]
    left = num_steps - row["step"]
    if trained and left:
        parts.append(f"ETA {duration(sum(trained) / len(trained) * left)}")
    return "  ".join(parts)


def summary(display: Display, experiment: str, run: Run, seconds: float) -> None:
    """Held-out measures before and after, how long it took, and what to do next.

    experiment: its name, or its file as it was given.
    """
    evaluated = [row for row in run.rows if "eval/success" in row]
    if evaluated:
        before, after = evaluated[0], evaluated[-1]
        display.table(
            "held-out tasks",
            ("", "before", "after"),
            [(n, shown(before, n), shown(after, n)) for n in measures(before) if n in after],
        )
    last = checkpoint.newest(run.checkpoints)
    display.line(f"wall clock  {duration(seconds)}")
    display.line(f"run         {run.folder}")
    display.line(f"curve       {run.folder / 'curve.png'}")
    if experiment.endswith(".py") or experiment in experiment_names():
        display.line(
            f"talk to it  python rollout.py --exp {shlex.quote(experiment)} --num-tasks 3 "
            f"--checkpoint {shlex.quote(str(last))}"
        )
    else:  # A program's that called tune().
        display.line(f"checkpoint  {last}")


def measures(row: dict[str, Any]) -> list[str]:
    """Held-out success, of named sets, too, pass@k, and what agents and the experiment measure."""
    ours = re.compile("eval/(success|(.*/)?(failure|reward/mean|low|high|episodes/.*)|.*/pass@.*)")
    own = (name for name in row if name.startswith("eval/") and not ours.fullmatch(name))
    return ["eval/success", *own]
