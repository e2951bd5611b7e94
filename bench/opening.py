"""How soon a large run is open: its first page, a filter, one episode.

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
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.progress import track

from agentrl.algorithms.advantages import credit
from agentrl.records.index import create, step_path
from agentrl.records.writer import Batch, Scores, Writer
from agentrl.types import Call, Episode, Group

TASKS, EPISODES, TURNS, SAMPLED, TOOL_TOKENS, PROMPT = 16, 8, 5, 200, 100, 600
VOCABULARY = 150_000
DIFFERENT_STEPS = 8

OPENS = """
import sys, time
started = time.perf_counter()
def said(what, result=""):
    global started
    print(f"{what:42} {1e3 * (time.perf_counter() - started):8.1f} ms   {result}")
    started = time.perf_counter()
from agentrl.runs import open_run
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


def a_batch(rng: np.random.Generator, step: int) -> tuple[list[Group], list[Scores]]:
    groups = [a_group(rng, f"task-{step}-{i}") for i in range(TASKS)]
    drawn = [p for s in credit(groups) for p in s.call.logprobs]
    trainer = (np.array(drawn) + rng.normal(0, 0.01, len(drawn))).astype(np.float32)
    weights = np.minimum(np.exp(trainer - np.array(drawn, np.float32)), 2)
    values = np.stack([trainer, rng.exponential(size=len(drawn)), weights]).astype(np.float32)
    return groups, [Scores(np.arange(len(credit(groups))), values)]


def a_group(rng: np.random.Generator, name: str) -> Group:
    def tokens(count: int) -> list[int]:
        # As in text, some are far more frequent than others.
        return (VOCABULARY * rng.random(count) ** 3).astype(int).tolist()

    prompt, episodes = tokens(PROMPT), []
    for index in range(EPISODES):
        context, calls = prompt, []
        for _ in range(TURNS):
            logprobs = (-rng.exponential(0.5, SAMPLED)).tolist()
            said = tokens(SAMPLED)
            calls.append(Call(prompt_ids=context, completion_ids=said, logprobs=logprobs))
            context = calls[-1].ids + tokens(TOOL_TOKENS)
        reward, status = float(rng.integers(2)), "timeout" if rng.random() < 0.01 else "ok"
        episodes.append(
            Episode(
                task={"id": name},
                index=index,
                calls=tuple(calls),
                status=status,
                reward=reward,
                success=reward == 1,
                metrics={"habit/no_print": 1 - reward},
                seconds=float(rng.random()),
            )
        )
    return Group({"id": name}, tuple(episodes))


def make(folder: Path, size: float) -> None:
    rng = np.random.default_rng(0)
    (folder / "config.json").write_text('{"experiment": "made_up", "config": {}}')
    rollouts = folder / "rollouts"
    writer, terms, seconds = Writer(rollouts), 0, 0.0
    for step in track(range(DIFFERENT_STEPS), "writing"):
        groups, scores = a_batch(rng, step)
        started = time.process_time()
        writer.write(Batch(step, groups, credit(groups), scores, held_out=False))
        seconds += time.process_time() - started
        terms += scores[0].values.shape[1]
    writer.close()
    written = sum(file.stat().st_size for file in rollouts.iterdir())
    print(
        f"{written / terms:.2f} bytes a trained token, nothing of which is shared, "
        f"{1e6 * seconds / terms:.2f} CPU seconds a million"
    )
    copy(rollouts, int(size / written * DIFFERENT_STEPS) + 1)
    written = sum(file.stat().st_size for file in rollouts.iterdir())
    print(f"{written:,} bytes")


def copy(rollouts: Path, num_steps: int) -> None:
    """As if the same steps had been drawn and written again and again."""
    with closing(create(rollouts)) as connection, connection:
        for step in track(range(DIFFERENT_STEPS, num_steps), "copying"):
            shutil.copy(step_path(rollouts, step % DIFFERENT_STEPS), step_path(rollouts, step))
            for table in ("batches", "groups", "episodes"):
                columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                others = ", ".join(column for column in columns if column != "step")
                connection.execute(
                    f"INSERT INTO {table} (step, {others}) "
                    f"SELECT ?, {others} FROM {table} WHERE step = ?",
                    (step, step % DIFFERENT_STEPS),
                )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        if not (folder / "rollouts").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, 1e9 * flags.gigabytes)
        # A process of its own, as a person starts it.
        for _ in range(2):
            subprocess.run([sys.executable, "-c", OPENS, str(folder)], check=True)


if __name__ == "__main__":
    main()
