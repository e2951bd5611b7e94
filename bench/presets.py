"""Presets compared at equal tokens: runs of train.py over presets and seeds, and their table.

    python -m bench.presets gsm8k_offline --presets grpo rloo "dapo --algorithm.updates 4"
    python -m bench.presets EXPERIMENT --presets A B --seeds 3 --steps 40 -- --eval.every 5

A preset may have flags of its own; what follows ``--`` goes to every run. Finished runs that
``--runs`` holds are taken as they are, so that a table that broke off goes on.

``--measure`` is any metric: held-out success, or the training reward where nothing is evaluated. It
is known at some numbers of tokens, and a straight line in between. Tokens are ``tokens/trained``
added up: all that were sampled in calls that credit saw; what ``rollout:refill`` drops is in no
row, and not counted. ``at ... tokens``: where the run with the fewest ends. ``on the way``: the
line's mean until there. ``clipped``: the mean over all steps. ``skipped``: the share of the last
ten steps' tokens that were not computed, for want of a gradient. ± is the seeds' deviation.
"""

import argparse
import itertools
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.progress import Progress

from agentrl.callables import ROOT
from agentrl.records import open_run
from experiments.ledger import spread


def main() -> None:
    argv = [*sys.argv[1:], "--"]
    end = argv.index("--")
    parser = argparse.ArgumentParser(prog="python -m bench.presets")
    parser.add_argument("experiment")
    parser.add_argument("--presets", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--measure")
    parser.add_argument("--runs", type=Path, default=f"runs/presets/{time.strftime('%m%d-%H%M%S')}")
    asked = parser.parse_args(argv[:end])
    flags = ["--exp", asked.experiment, "--steps", str(asked.steps), *argv[end + 1 : -1]]
    commands, folders = {}, defaultdict(list)
    for preset, seed in itertools.product(asked.presets, range(asked.seeds)):
        folder = asked.runs.resolve() / f"{preset} {seed}".replace("/", ".").replace(" ", "_")
        own = ["--algorithm", *shlex.split(preset), "--seed", str(seed), "--runs", str(folder)]
        commands[folder] = [*flags, *own]
        folders[preset].append(folder)
    run_all(commands, asked.jobs, asked.steps)
    runs = {preset: [*map(newest, of)] for preset, of in folders.items()}
    print("\n".join(table(runs, asked.measure)))


def newest(folder: Path) -> Path | None:
    return max((file.parent for file in folder.glob("*/*/metrics.jsonl")), default=None)


def rows_of(folder: Path) -> list[dict]:
    run = newest(folder)
    return open_run(run).metrics() if run else []


def run_all(commands: dict[Path, list[str]], jobs: int, steps: int) -> None:
    """train.py for each folder, so many at a time; those that run end when this does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    waiting, running = deque(f for f in commands if len(rows_of(f)) <= steps), {}
    try:
        with Progress() as progress:
            bar = progress.add_task("steps", total=len(commands) * (steps + 1))
            while waiting or running:
                while waiting and len(running) < jobs:
                    folder = waiting.popleft()
                    running[folder] = start(folder, commands[folder])
                time.sleep(1)
                progress.update(bar, completed=sum(len(rows_of(folder)) for folder in commands))
                for folder in [f for f, process in running.items() if process.poll() is not None]:
                    if running.pop(folder).returncode:
                        sys.exit(f"error: a run has failed: see {folder / 'log'}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def start(folder: Path, flags: Sequence[str]) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("w") as log:
        command = [sys.executable, "train.py", *flags]
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def table(runs: dict[str, list[Path]], measure: str | None = None) -> list[str]:
    """Markdown, a row a preset."""
    rows = {preset: [open_run(run).metrics() for run in of] for preset, of in runs.items()}
    each = [of_run for of in rows.values() for of_run in of]
    is_evaluated = all("eval/success" in of_run[-1] for of_run in each)
    measure = measure or ("eval/success" if is_evaluated else "reward/mean")
    tokens = min(curve(of_run, measure)[0][-1] for of_run in each)
    at = f"`{measure}` before", f"at {tokens:,.0f} tokens", "on the way"
    lines = [("preset", *at, "clipped", "skipped"), ["---"] * 6]
    for preset, of in rows.items():
        numbers = [summary(of_run, measure, tokens) for of_run in of]
        found = [*zip(*numbers, strict=True), [skipped(run) for run in runs[preset]]]
        cells = ["none" if None in of_seeds else spread(of_seeds, ".3f") for of_seeds in found]
        lines.append([f"`{preset}`", *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def summary(rows: list[dict], measure: str, tokens: float) -> tuple[float | None, ...]:
    """Of one run: the measure before, at so many tokens and on the way there, and ``clipped``."""
    known, values = curve(rows, measure)
    at = [*(x for x in known if x < tokens), tokens]
    line = np.interp(at, known, values)
    clipped = [row["clipped"] for row in rows if "clipped" in row]
    mean = float(np.trapezoid(line, at) / tokens)
    return values[0], float(line[-1]), mean, fmean(clipped) if clipped else None


def curve(rows: list[dict], measure: str) -> tuple[list[float], list[float]]:
    """Tokens, and the measure there. A row's evaluation is of the weights that its update made,
    all else of those before it."""
    tokens = np.cumsum([row.get("tokens/trained", 0) for row in rows]).tolist()
    known = [i for i, row in enumerate(rows) if measure in row]
    before = not measure.startswith("eval/")
    return [tokens[i - before] for i in known], [rows[i][measure] for i in known]


def skipped(run: Path, steps: int = 10) -> float:
    """The share of a run's last tokens that were sampled and not computed, by its records."""
    counts = {True: 0, False: 0}
    trained = [step for step, held_out in open_run(run).batches() if not held_out]
    for step in trained[-steps:]:
        for episode in open_run(run).read_step(step):
            for call in episode.calls:
                counts[call.in_loss] += len(call.completion_ids) * (call.advantage is not None)
    return counts[False] / sum(counts.values())


if __name__ == "__main__":
    main()
