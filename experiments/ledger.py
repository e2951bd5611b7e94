"""Ledger: one row, and one picture, from the finished runs of an experiment over its seeds.

    for seed in 0 1 2; do python train.py --exp gsm8k_offline --seed $seed --runs runs/seeds; done
    make ledger RUNS='runs/seeds/gsm8k_offline/*'

enters them at the end of README.md. Nothing is overwritten, so that versions can be compared:
``curves/commits.png`` has all rows, one after another. A row holds mean and standard deviation over
the seeds, and in brackets what the 95% intervals of all of them hold, of the first and the last
step that has the measure. The wall clock is that of a run's steps, without loading.
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from agentrl.records import open_run
from agentrl.runs import curve
from agentrl.runs.evaluation import has_stopped
from agentrl.runs.run import Run, flatten

PAGE = Path(__file__).with_name("README.md")
COLUMNS = ("experiment", "mode", "seeds", "measure", "before", "after")
COLUMNS += ("wall clock", "trained tokens", "hardware", "commit", "command")
MODE = "in step"
"""Training waits for the last episode of its batch: the only way that there is."""
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
    curves = PAGE.with_name("curves")
    curves.mkdir(exist_ok=True)
    curve.draw(curves / f"{name}.png", name, [run.rows for run in runs])
    row = row_of(runs, f"{curves.name}/{name}.png")
    with PAGE.open("a", encoding="utf-8") as page:
        page.write(f"{row}\n")
    draw_commits(curves / "commits.png", entered(PAGE.read_text(encoding="utf-8")))
    print(f"{row}\nis in {PAGE}, {name}.png and commits.png in {curves}")


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
    if (run.description["commit"] or "-dirty").endswith("-dirty"):
        raise ValueError(
            f"{folder} is of a checkout with changes, which nobody can get again: commit them, and "
            "run it again"
        )
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
    """The ledger's row, a cell for each of COLUMNS."""
    is_evaluated = any("eval/success" in row for run in runs for row in run.rows)
    measure = "eval/success" if is_evaluated else "reward/mean"
    measured = [[row for row in run.rows if measure in row] for run in runs]
    seconds, tokens = (
        [sum(row.get(name, 0) for row in run.rows) for run in runs]
        for name in ("time/step_seconds", "tokens/trained")
    )
    described = [run.description for run in runs]
    command = re.sub(r" --(seed|runs)[ =]\S+", "", described[0]["command"])
    cells = [
        f"[{described[0]['experiment']}]({picture})",
        MODE,
        ", ".join(sorted(str(run.settings["seed"]) for run in runs)),
        f"`{measure}`",
        *(_cell([of_run[at] for of_run in measured], measure) for at in (0, -1)),
        f"{spread(seconds, '.0f')} s",
        spread(tokens, ",.0f"),
        ", ".join(sorted({one.get("hardware", "not recorded") for one in described})),
        ", ".join(sorted({one["commit"][:10] for one in described})),
        f"`{command} --seed N`",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(rows: Sequence[dict], measure: str) -> str:
    ends = [row[end] for row in rows for end in (f"{measure}/low", f"{measure}/high") if end in row]
    held = f" [{min(ends):.3f}, {max(ends):.3f}]" if ends else ""
    return spread([row[measure] for row in rows], ".3f") + held


def spread(values: Sequence[float], form: str) -> str:
    """
    >>> spread([0.44, 0.4, 0.525], ".3f"), spread([0.44], ".3f")
    ('0.455 ± 0.064', '0.440')
    """
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def entered(page: str) -> list[dict[str, str]]:
    """The rows of the table at the page's end, a cell for each of COLUMNS."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| [")]
    return [dict(zip(COLUMNS, cells, strict=True)) for cells in lines if len(cells) == len(COLUMNS)]


def draw_commits(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Draw before and after of each experiment over the commits, in the order of their entry."""
    # Slow to import.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    of_experiment = defaultdict(list)
    for at, row in enumerate(rows):
        of_experiment[re.match(r"\[(\S+)\]", row["experiment"])[1]].append((at, row))
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, found) in enumerate(of_experiment.items()):
        style = {"color": f"C{number}", "capsize": 3}
        for column, fill, label in (("before", "none", None), ("after", "full", name)):
            means, bars = zip(*(_mean_and_bar(row[column]) for _, row in found), strict=True)
            places = [at for at, _ in found]
            axes.errorbar(places, means, bars, fmt="o-", fillstyle=fill, label=label, **style)
    commits = [row["commit"].partition(",")[0][:7] for row in rows]
    axes.set_xticks(range(len(rows)), commits, rotation=60, fontsize=7)
    axes.set(ylabel="held-out success: empty before, filled after", title="experiments, by commit")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _mean_and_bar(cell: str) -> tuple[float, float]:
    """
    >>> _mean_and_bar("0.455 ± 0.064 [0.370, 0.560]"), _mean_and_bar("0.440 [0.370, 0.510]")
    ((0.455, 0.064), (0.44, 0.0))
    """
    mean, _, bar = cell.partition(" [")[0].partition(" ± ")
    return float(mean), float(bar or 0)


if __name__ == "__main__":
    main()
