"""One experiment over several seeds: a run for each, a row in the ledger, a picture of all.

    make sweep EXP=gsm8k_offline SEEDS=3 FLAGS="--steps 20"
    python -m agentrl.runs.sweep --exp gsm8k_offline --seeds 3 --steps 20

The runs are those of train.py, one after another, in ``runs/sweeps/<time>/``. One that fails is
said, and the others count. Interrupted, it passes that on and writes nothing.
"""

import argparse
import ctypes
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agentrl.cli import parse
from agentrl.signals import PR_SET_PDEATHSIG, Interrupted, Signals
from agentrl.runs import curve
from agentrl.runs.curve import Row
from agentrl.runs.progress import Display, duration
from agentrl.runs.run import Run, read_rows, replace_text

ROOT = Path(__file__).parent.parent.parent
HEADING = """
## Sweeps

What `make sweep` has added: mean ± standard deviation over the seeds, of the first and the last
step that has the measure. The wall clock is a whole run's, from start to exit.

"""
HEADER = (
    "| experiment | seeds | measure | before | after | wall clock | hardware | commit | command |"
)
MEASURES = ("eval/success", "reward/mean")
"""What a run is judged by: the first that it has logged."""


@dataclass(frozen=True)
class Done:
    """A run that came to its end."""

    seed: int
    seconds: float
    rows: list[Row]
    commit: str


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}: give at least 1")
    return int(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=at_least_one, default=3, help="seeds 0 to this, less one (3)"
    )
    parser.add_argument("--launch", default=sys.executable, help="what train.py is started with")
    parser.add_argument("--ledger", type=Path, default=ROOT / "experiments" / "README.md")


DESCRIPTION = "Train an experiment over several seeds, and enter it into the ledger."


def main() -> None:
    name, config, flags = parse(sys.argv[1:], DESCRIPTION, add_flags)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_flags(own)
    of_train = own.parse_known_args(sys.argv[1:])[1]
    if any(flag.split("=")[0] == "--seed" for flag in of_train):
        sys.exit("error: --seed is what a sweep varies: give their number with --seeds")
    display, started = Display(), datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = config.runs / "sweeps" / started
    command = [*shlex.split(flags.launch), str(ROOT / "train.py"), *of_train]
    signals = Signals()
    signals.listen()
    picture = flags.ledger.parent / "curves" / f"{name}-{started}.png"
    try:
        done = run_seeds([*command, "--runs", str(folder)], flags.seeds, folder / name, display)
        if not done:
            sys.exit("error: no seed came to its end, so there is nothing to enter")
        picture.parent.mkdir(exist_ok=True)
        curve.draw(picture, f"{name}, {_count(len(done), 'seed')}", [run.rows for run in done])
        row = ledger_row(name, f"curves/{picture.name}", flags.seeds, done, sys.argv[1:])
    except Interrupted as cause:
        display.line(f"{cause}: the runs so far are in {folder}, and the ledger is as it was")
        sys.exit(128 + cause.number)
    enter(flags.ledger, row)
    display.line(f"ledger   {flags.ledger}\n         {row}\npicture  {picture}\nruns     {folder}")


def run_seeds(command: Sequence[str], count: int, runs: Path, display: Display) -> list[Done]:
    """Run the command with each seed; those that succeeded."""
    done: list[Done] = []
    for seed in range(count):
        display.line(f"seed {seed}, run {seed + 1} of {count}")
        before, started = set(runs.glob("*")), time.monotonic()
        status = _run([*command, "--seed", str(seed)])
        seconds = time.monotonic() - started
        if status:
            display.line(f"seed {seed} failed with exit status {status} after {duration(seconds)}")
            continue
        (folder,) = set(runs.glob("*")) - before
        rows = list(read_rows(folder))
        if not any(measure in row for row in rows for measure in MEASURES):
            display.line(f"seed {seed} has measured nothing: neither {' nor '.join(MEASURES)}")
            continue
        done.append(Done(seed, seconds, rows, Run(folder).description["commit"] or "none"))
        measure, first, last = measured(rows)
        left = statistics.fmean(run.seconds for run in done) * (count - seed - 1)
        display.line(
            f"seed {seed}: {measure} {first:.3f} -> {last:.3f} in {duration(seconds)}"
            + (f", about {duration(left)} left" if left else "")
        )
    return done


def _run(command: Sequence[str]) -> int:
    process = subprocess.Popen(command, preexec_fn=_end_with_parent)
    try:
        return process.wait()
    except Interrupted as cause:
        # A terminal has told it, too; then it knows that this is the same.
        process.send_signal(cause.number)
        process.wait()
        raise


def _end_with_parent() -> None:
    """In the child: should the sweep be killed, it is told to end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def measured(rows: Sequence[Row]) -> tuple[str, float, float]:
    """The measure of a run, and what it was in the first and in the last step that has it.

    >>> measured([{"eval/success": 0.5}, {"reward/mean": 1.0}, {"eval/success": 0.75}])
    ('eval/success', 0.5, 0.75)
    >>> measured([{}, {"reward/mean": 0.25}, {"reward/mean": 1.0}])
    ('reward/mean', 0.25, 1.0)
    """
    logged = {name for row in rows for name in row}
    measure = next(name for name in MEASURES if name in logged)
    values = [row[measure] for row in rows if measure in row]
    return measure, values[0], values[-1]


def ledger_row(
    name: str, picture: str, num_seeds: int, done: Sequence[Done], argv: Sequence[str]
) -> str:
    measures, before, after = zip(*(measured(run.rows) for run in done), strict=True)
    failed = num_seeds - len(done)
    seeds = ", ".join(str(run.seed) for run in done) + (f" ({failed} failed)" if failed else "")
    cells = [
        f"[{name}]({picture})",
        seeds,
        f"`{measures[0]}`",
        spread(before, ".3f"),
        spread(after, ".3f"),
        f"{spread([run.seconds for run in done], '.0f')} s",
        hardware(),
        ", ".join(sorted({_short(run.commit) for run in done})),
        f"`python -m agentrl.runs.sweep {shlex.join(argv)}`",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], form: str) -> str:
    """
    >>> spread([0.44, 0.4, 0.525], ".3f"), spread([0.44], ".3f")
    ('0.455 ± 0.064', '0.440')
    """
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def enter(ledger: Path, row: str) -> None:
    """Add a row to the ledger's table of sweeps, which is made if it is not there.

    Raises OSError where the ledger cannot be written.
    """
    text = ledger.read_text() if ledger.exists() else ""
    if HEADER not in text:
        text = f"{text}{HEADING}{HEADER}\n{'|---' * HEADER.count(' | ')}|---|\n"
    lines = text.splitlines()
    end = lines.index(HEADER)
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    replace_text(ledger, "\n".join([*lines[:end], row, *lines[end:]]) + "\n")


def hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{_count(len(os.sched_getaffinity(0)), 'CPU core')} ({platform.machine()})"


def _short(commit: str) -> str:
    """
    >>> _short("0123456789abcdef-dirty")
    '0123456789 with changes'
    """
    hash_, _, dirty = commit.partition("-")
    return f"{hash_[:10]} with changes" if dirty else hash_[:10]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    main()
