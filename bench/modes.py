"""Steps an hour in each way of training, alternating, where agents wait and where they do not.

    python -m bench.modes                     # minutes: bench/waiting.py, whose episodes wait
    python -m bench.modes --exp gsm8k_offline --modes in-step workers=1 overlap --rounds 3

Each round starts ``train.py`` once in each mode, on the same tasks and seeds. A figure is the
median over a mode's steps but the first of each run, which warms up; a ratio that of medians.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from agentrl.callables import ROOT


@dataclass(frozen=True)
class Options:
    exp: str = "bench/waiting.py"
    modes: tuple[str, ...] = ("in-step", "workers=1", "overlap", "overlap+workers=1")
    """Flags of train.py, with a + between them; the first is what the others are compared with."""
    steps: int = 6
    rounds: int = 2


def flags_of(mode: str) -> list[str]:
    """
    >>> flags_of("overlap+workers=1"), flags_of("in-step")
    (['--overlap', '--workers', '1'], [])
    """
    named = [one for one in mode.split("+") if one != "in-step"]
    return [part for one in named for part in f"--{one}".split("=")]


def step_seconds(options: Options, mode: str) -> list[float]:
    """Of one run, from its second step on."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--exp", options.exp, *flags_of(mode)]
        command += ["--steps", str(options.steps), "--eval.every", "None", "--runs", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: {' '.join(command)}\n{done.stderr[-2000:]}")
        (file,) = Path(folder).glob("*/*/metrics.jsonl")
        rows = [json.loads(line) for line in file.open()]
    return [row["time/step_seconds"] for row in rows if row["step"] > 1]


def main(options: Options) -> None:
    seconds: dict[str, list[float]] = {mode: [] for mode in options.modes}
    for _ in range(options.rounds):
        for mode, found in seconds.items():
            found += step_seconds(options, mode)
    medians = {mode: statistics.median(found) for mode, found in seconds.items()}
    table = Table(
        "mode", "seconds a step", "steps an hour", "as fast as the first", title=options.exp
    )
    for mode, median in medians.items():
        ratio = medians[options.modes[0]] / median
        cells = (f"{median:.2f}", f"{3600 / median:,.0f}", f"{ratio:.2f}")
        table.add_row(mode, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
