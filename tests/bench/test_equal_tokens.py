"""Presets are compared at equal tokens: made-up rows of runs, and the numbers of their table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from agentrl.records.recorder import Recorder
from agentrl.records.scores import Scores
from agentrl.types import Call, Episode, Group, Sample
from bench import presets


def rows_of(tokens: int, before: float, after: float, measure: str) -> list[dict]:
    """Two steps, or where nothing is evaluated three, whose first says what was before."""
    if measure == "eval/success":
        first, last = {measure: before}, {measure: after, "clipped": 0.5}
        return [{"step": 0, **first}, row(1, tokens, clipped=0.25), row(2, tokens, **last)]
    rewards = (before, (before + after) / 2, after)
    return [{"step": 0}, *(row(i + 1, tokens, **{measure: r}) for i, r in enumerate(rewards))]


def row(step: int, tokens: int, **measured: float) -> dict:
    return {"step": step, "tokens/trained": tokens, **measured}


def write(folder: Path, rows: list[dict]) -> None:
    """A run whose last calls have eight sampled tokens, of which three were computed."""
    folder = folder / "mine" / "20261128-000000"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    calls = [Call(prompt_ids=[1], completion_ids=[2] * n, logprobs=[-0.5] * n) for n in (3, 5, 7)]
    episodes = [Episode(task={"id": "a"}, index=0, calls=(call,), reward=1.0) for call in calls]
    # The third was no sample: of an agent that is not trained.
    samples = [Sample(calls[0], 1.0, group=0, episode=0), Sample(calls[1], 0.0, group=0, episode=1)]
    scores = [Scores(np.array([0]), np.zeros((2, 3), np.float32), ())]
    recorder = Recorder(folder / "records")
    recorder.add(2, [Group({"id": "a"}, tuple(episodes))], samples, scores)
    recorder.close()


@pytest.mark.parametrize(
    ("measure", "clipped"), [("eval/success", "0.375 ± 0.000"), ("reward/mean", "none")]
)
def test_the_table(monkeypatch, tmp_path, capsys, measure, clipped):
    found = {
        "grpo_0": (100, 0.2, 0.6),
        "grpo_1": (200, 0.4, 0.8),  # at 200 tokens it is on half of its way
        "dapo_--algorithm.updates_4_0": (100, 0.0, 0.0),
        "dapo_--algorithm.updates_4_1": (400, 0.0, 0.8),  # and this on a quarter
    }
    commands = {}

    def run_all(asked, jobs, steps):
        commands.update((folder.name, command) for folder, command in asked.items())
        for folder in asked:
            write(folder, rows_of(*found[folder.name], measure))

    monkeypatch.setattr(presets, "run_all", run_all)
    flags = ["--seeds", "2", "--steps", "2", "--runs", str(tmp_path), "--", "--eval.every", "2"]
    of_two = ["mine", "--presets", "grpo", "dapo --algorithm.updates 4", *flags]
    monkeypatch.setattr(sys, "argv", ["presets", *of_two])
    presets.main()
    assert capsys.readouterr().out.splitlines() == [
        f"| preset | `{measure}` before | at 200 tokens | on the way | clipped | skipped |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| `grpo` | 0.300 ± 0.141 | 0.600 ± 0.000 | 0.450 ± 0.071 | {clipped} | 0.625 ± 0.000 |",
        "| `dapo --algorithm.updates 4` | 0.000 ± 0.000 | 0.100 ± 0.141 | 0.050 ± 0.071 | "
        f"{clipped} | 0.625 ± 0.000 |",
    ]
    name = "dapo_--algorithm.updates_4_1"
    assert commands[name] == [
        *("--exp", "mine", "--steps", "2", "--eval.every", "2", "--algorithm", "dapo"),
        *("--algorithm.updates", "4", "--seed", "1", "--runs", str(tmp_path / name)),
    ]
