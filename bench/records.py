"""Cost of records: disk, the step's time, and the writing thread's.

    python -m bench.records [--steps 40] [--model FOLDER]    # the demo
    python -m bench.records --made-up                        # long episodes

A trained token is a loss term. The thread's CPU time counts whole against the step, because on two
cores whatever computes beside a step slows it. The run that is made up has 3 steps of 16 tasks, 8
episodes each, of 3 turns of 300 sampled tokens; log-probabilities and entropies are random, so
nothing of them is to be guessed.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import train
from agentrl.algorithms.advantages import credit
from agentrl.records import open_run
from agentrl.records.recorder import Recorder
from agentrl.records.scores import Scores
from agentrl.runs import session, tally
from tests.support.made_runs import long_group, long_scores


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

    def close(self):
        self.cpu_seconds = self._thread.submit(time.thread_time).result()
        super().close()


class MeasuredScores(Scores):
    """Notes how long the loss's values take to leave the device."""

    seconds = 0.0

    @classmethod
    def of(cls, *args, **measures):
        started = time.perf_counter()
        scores = Scores.of(*args, **measures)
        cls.seconds += time.perf_counter() - started
        return scores


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", default="40")
    parser.add_argument("--model", help="a tiny model that is there already")
    parser.add_argument("--made-up", action="store_true")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if flags.made_up:
            make_up(Path(folder))
            return
        session.Recorder, tally.Scores = Measured, MeasuredScores
        sys.argv = ["train.py", "--exp", "gsm8k_offline", "--steps", flags.steps]
        sys.argv += ["--runs", folder, *(["--model.path", flags.model] if flags.model else [])]
        train.main()
        report(next(Path(folder).glob("*/*")))


def make_up(folder: Path) -> None:
    rng, terms = np.random.default_rng(0), 0
    recorder = Measured(folder / "records")
    for step in range(3):
        groups = [long_group(rng, f"task-{step}-{i}") for i in range(16)]
        trained = credit(groups)
        scores = long_scores(rng, trained)
        terms += scores[0].values.shape[1]
        recorder.add(step, groups, trained, scores)
    recorder.close()
    print(f"{terms:,} trained tokens of long episodes")
    report_size(folder / "records", terms)
    print(f"{'the thread, CPU':20} {recorder.cpu_seconds:9.3f} s")


def report(folder: Path) -> None:
    run = open_run(folder)
    rows = run.metrics()
    terms = sum(row.get("tokens/trained", 0) for row in rows)
    held_out = sum(1 for row in run.episodes(held_out=True, limit=10**9))
    print(f"{terms:,} trained tokens, {held_out} held-out episodes")
    report_size(folder / "records", terms)
    seconds = sum(row["time/step_seconds"] for row in rows)
    waited = Measured.made.waited + MeasuredScores.seconds
    print(f"{'steps':20} {seconds:9.3f} s")
    for what, part in {
        "waited by steps": waited,
        "the thread, CPU": Measured.made.cpu_seconds,
    }.items():
        print(f"{what:20} {part:9.3f} s {part / seconds:9.2%}")


def report_size(records: Path, terms: int) -> None:
    sizes = Counter()
    for path in sorted(records.iterdir()):
        size = path.stat().st_size
        sizes.update({"all": size})
        if path.name.endswith(".episodes.parquet"):
            sizes.update({"rows of episodes": size})
            continue
        metadata = pq.read_metadata(path)
        sizes.update({"what is in a file": metadata.serialized_size})
        for group in range(metadata.num_row_groups):
            for column in map(metadata.row_group(group).column, range(metadata.num_columns)):
                name = column.path_in_schema.removeprefix("calls.list.element.").partition(".")[0]
                sizes.update({name: column.total_compressed_size})
    for what, size in sizes.most_common(9):
        print(f"{what:20} {size:>9,} bytes {size / terms:6.2f} a trained token")


if __name__ == "__main__":
    main()
