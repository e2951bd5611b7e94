"""The commands as a person types them, in a process; and short runs that learn from chance."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT

SHORT = (
    *("--steps", "2", "--tasks-per-step", "4", "--group-size", "4"),
    *("--eval.num-tasks", "8", "--eval.every", "2"),
)

RANDOM_REWARDS = """
    import dataclasses, random
    from experiments import gsm8k, gsm8k_offline

    async def judge(task, response, episode):
        verdict = await gsm8k.judge(task, response, episode)
        return dataclasses.replace(verdict, reward=random.random())

    config = dataclasses.replace(gsm8k_offline.config, judge=judge)
"""
"""So that a model which solves nothing yet has something to learn from."""


def run(*command: str, expect: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


def read_metrics(runs: Path) -> tuple[Path, list[dict]]:
    (folder,) = runs.glob("*/*")
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").open()]
