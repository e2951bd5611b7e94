"""What the records of the demo cost: disk, the step's time, and the writing thread's.

    python -m bench.records [--steps 40]

A trained token is a loss term. The thread's CPU time counts whole against the step, because on two
cores whatever computes beside a step slows it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import train
from agentrl.records.recorder import Recorder
from agentrl.records.writer import Scores
from agentrl.runs import open_run


class Measured(Recorder):
    """Notes what callers waited, and what the thread computed."""

    made: "Measured"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Measured.made, self.waited = self, 0.0

    def add(self, *args, **kwargs):
        started = time.perf_counter()
        super().add(*args, **kwargs)
        self.waited += time.perf_counter() - started

    def flush(self):
        started = time.perf_counter()
        super().flush()
        self.waited += time.perf_counter() - started


class MeasuredScores(Scores):
    """Notes how long the loss's values take to leave the device."""

    seconds = 0.0

    @classmethod
    def of(cls, *args):
        started = time.perf_counter()
        scores = Scores.of(*args)
        cls.seconds += time.perf_counter() - started
        return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", default="40")
    steps = parser.parse_args().steps
    train.Recorder, train.Scores = Measured, MeasuredScores
    with tempfile.TemporaryDirectory() as runs:
        sys.argv = ["train.py", "--exp", "gsm8k_offline", "--steps", steps, "--runs", runs]
        train.main()
        report(next(Path(runs).glob("*/*")))


def report(folder: Path) -> None:
    run = open_run(folder)
    rows = run.metrics()
    terms = sum(row.get("tokens/trained", 0) for row in rows)
    files = {file.name: file.stat().st_size for file in (folder / "rollouts").iterdir()}
    index = sum(size for name, size in files.items() if name.startswith("records.sqlite"))
    held_out = sum(1 for row in run.episodes(held_out=True, limit=10**9))
    print(f"{terms:,} trained tokens, {held_out} held-out episodes")
    for what, size in {"all": sum(files.values()), "of them, the index": index}.items():
        print(f"{what:20} {size:>9,} bytes {size / terms:6.2f} a trained token")
    seconds = sum(row["time/step_seconds"] for row in rows)
    waited = Measured.made.waited + MeasuredScores.seconds
    print(f"{'steps':20} {seconds:9.3f} s")
    for what, part in {
        "waited by steps": waited,
        "the thread's CPU": Measured.made.cpu_seconds,
    }.items():
        print(f"{what:20} {part:9.3f} s {part / seconds:9.2%}")


if __name__ == "__main__":
    main()
