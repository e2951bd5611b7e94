"""Time until a large run is open: its first page, a filter, one episode.

    python -m bench.opening [--gigabytes 2] [--folder DIR]

The run is made up: 16 tasks x 8 episodes a step, each of 5 turns of 200 sampled tokens,
log-probabilities and entropies at random. Its first steps are written as training writes them, the
others are copies of their files and rows. A folder that is there already is opened as it is.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from agentrl.algorithms.advantages import credit
from agentrl.records.files import StepFiles
from agentrl.records.writer import OPTIONS, Writer
from tests.support.made_runs import long_group, long_scores

DIFFERENT_STEPS = 8

OPENS = """
import sys, time
started = time.perf_counter()
def said(what, result=""):
    global started
    print(f"{what:42} {1e3 * (time.perf_counter() - started):8.1f} ms   {result}")
    started = time.perf_counter()
from agentrl.records import open_run
said("import")
run = open_run(sys.argv[1])
said("open")
steps = run.steps()
rows = run.episodes(limit=100)
said("steps, and the first 100 episodes", f"{len(steps)} steps")
rows = run.episodes(step=steps[-1], limit=100)
said("100 episodes of the last step")
found = run.episodes(status="timeout", limit=100)
said("the first 100 with a status", f"{len(found)} found")
found = run.episodes(status="error", limit=100)
said("a status that none has", f"{len(found)} found")
read = [run.read(row.step, row.task_id, row.episode) for row in rows[:1]]
said("one episode", f"{len(read[0].ids)} tokens")
for row in rows[8:88:8]: run.read(row.step, row.task_id, row.episode)
said("ten episodes of other tasks")
"""


def make(folder: Path, size: float) -> None:
    rng = np.random.default_rng(0)
    (folder / "config.json").write_text('{"experiment": "made_up", "config": {}}')
    records = folder / "records"
    writer, terms, seconds = Writer(records), 0, 0.0
    for step in track(range(DIFFERENT_STEPS), "writing"):
        groups = [long_group(rng, f"task-{step}-{i}", turns=5, sampled=200) for i in range(16)]
        trained = credit(groups)
        scores = long_scores(rng, trained)
        started = time.process_time()
        writer.write(step, groups, trained, scores)
        seconds += time.process_time() - started
        terms += scores[0].values.shape[1]
    written = sum(file.stat().st_size for file in records.iterdir())
    print(
        f"{written / terms:.2f} bytes a trained token, nothing of which is shared, "
        f"{1e6 * seconds / terms:.2f} CPU seconds a million"
    )
    copy(records, int(size / written * DIFFERENT_STEPS) + 1)
    written = sum(file.stat().st_size for file in records.iterdir())
    print(f"{written:,} bytes")


def copy(records: Path, num_steps: int) -> None:
    """As if the same steps had been drawn and written again and again."""
    for step in track(range(DIFFERENT_STEPS, num_steps), "copying"):
        here, there = (StepFiles(s, False, records) for s in (step % DIFFERENT_STEPS, step))
        shutil.copy(here["tokens"], there["tokens"])
        episodes = pq.ParquetFile(here["episodes"])
        rows = episodes.read()
        numbers = pa.array([step] * len(rows), pa.int32())
        rows = rows.set_column(rows.column_names.index("step"), "step", numbers)
        rows = rows.replace_schema_metadata(episodes.metadata.metadata)
        pq.write_table(rows, there["episodes"], **{**OPTIONS, "store_schema": True})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        if not (folder / "records").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, 1e9 * flags.gigabytes)
        # A process of its own, as a person starts it.
        for _ in range(2):
            subprocess.run([sys.executable, "-c", OPENS, str(folder)], check=True)


if __name__ == "__main__":
    main()
