"""Ledger: one row, and one picture, from the finished runs of an experiment over its seeds.

    for seed in 0 1 2; do python train.py --exp gsm8k_offline --seed $seed --runs runs/seeds; done
    python -m experiments.ledger runs/seeds/gsm8k_offline/*                            # prints it
    python -m experiments.ledger runs/seeds/gsm8k_offline/* >> experiments/README.md   # enters it

A row holds mean and standard deviation over the seeds, of the first and the last step that has the
measure. The wall clock is that of a run's steps, without loading; the picture is in ``curves/``.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrl.records import open_run
from agentrl.runs import curve
from agentrl.runs.evaluation import has_stopped, shown
from agentrl.runs.run import Run, flatten

CURVES = Path(__file__).with_name("curves")
VARIES = {"seed", "runs", "server.port"}
"""Settings in which the runs of a row may differ."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.ledger")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    try:
        runs = [finished(folder) for folder in parser.parse_args().runs]
        check_alike(runs)
    except ValueError as error:
        sys.exit(f"error: {error}")
    name = f"{runs[0].description['experiment']}-{max(run.folder.name for run in runs)}"
    CURVES.mkdir(exist_ok=True)
    curve.draw(CURVES / f"{name}.png", name, [run.rows for run in runs])
    print(row_of(runs, f"{CURVES.name}/{name}.png"))


def finished(folder: Path) -> Run:
    """The run in a folder, with its rows. Raises ValueError where it has not come to its end."""
    run = Run(folder)
    try:
        run.rows, settings = open_run(folder).metrics(), run.settings
        steps, of_eval = settings["steps"], settings["eval"]
        is_over = has_stopped(run.rows, of_eval.get("best", ""), of_eval.get("patience"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} is not the folder of a run ({type(error).__name__}: {error})"
        ) from error
    last = run.rows[-1]["step"] if run.rows else 0
    # Where the epochs decide, the runs have to have come to the same step.
    if last == 0 or (steps and not (settings["epochs"] or is_over) and last < steps):
        raise ValueError(
            f"{folder} has come to step {last} and is not finished: give --resume {folder} "
            "to train.py, or leave it out"
        )
    return run


def check_alike(runs: Sequence[Run]) -> None:
    """Raise ValueError where they differ in more than the seed, or not in that."""
    kinds = [
        {
            **flatten(r.settings),
            "experiment": r.description["experiment"],
            # What stops early stops where it may.
            "end": r.rows[-1]["step"] if r.settings["eval"].get("patience") is None else None,
        }
        for r in runs
    ]
    for name in sorted(set().union(*kinds) - VARIES):
        if len({json.dumps(kind.get(name)) for kind in kinds}) > 1:
            raise ValueError(f"the runs differ in {name}: give those of one experiment")
    if len({kind["seed"] for kind in kinds}) < len(kinds):
        raise ValueError("two of the runs have one seed: give one run of each")


def row_of(runs: Sequence[Run], picture: str) -> str:
    """The ledger's row: experiment, seeds, measure, before, after, wall clock, hardware, commit,
    command."""
    is_evaluated = any("eval/success" in row for run in runs for row in run.rows)
    measure = "eval/success" if is_evaluated else "reward/mean"
    measured = [[row for row in run.rows if measure in row] for run in runs]
    seconds = [sum(row.get("time/step_seconds", 0) for row in run.rows) for run in runs]
    described = [run.description for run in runs]
    command = re.sub(r"--seed[ =]\S+", "--seed N", described[0]["command"])
    cells = [
        f"[{described[0]['experiment']}]({picture})",
        ", ".join(sorted(str(run.settings["seed"]) for run in runs)),
        f"`{measure}`",
        *(_cell([of_run[at] for of_run in measured], measure) for at in (0, -1)),
        f"{spread(seconds, '.0f')} s",
        ", ".join(sorted({one.get("hardware", "not recorded") for one in described})),
        ", ".join(sorted({_short(one["commit"] or "none") for one in described})),
        f"`{command}`",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(rows: Sequence[dict], measure: str) -> str:
    """Over several seeds the spread; of one the interval over tasks, where it has one."""
    return spread([r[measure] for r in rows], ".3f") if rows[1:] else shown(rows[0], measure)


def spread(values: Sequence[float], form: str) -> str:
    """
    >>> spread([0.44, 0.4, 0.525], ".3f"), spread([0.44], ".3f")
    ('0.455 ± 0.064', '0.440')
    """
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def _short(commit: str) -> str:
    """
    >>> _short("0123456789abcdef-dirty")
    '0123456789 with changes'
    """
    hash_, _, dirty = commit.partition("-")
    return f"{hash_[:10]} with changes" if dirty else hash_[:10]


if __name__ == "__main__":
    main()
