"""The commands as a person types them, in a process; and short runs that learn from chance."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.warm import WarmProcess

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
    """What the command says; one of ours is forked, see ``warm``."""
    with tempfile.TemporaryFile("w+") as output:
        if command[0] in ("train.py", "rollout.py"):
            status = WarmProcess(command, output, os.environ).wait(900)
        else:
            how = {"stdout": output, "stderr": subprocess.STDOUT, "timeout": 900}
            status = subprocess.run([sys.executable, *command], cwd=ROOT, **how).returncode
        output.seek(0)
        said = output.read()
    assert status == expect, said
    return said


def read_metrics(runs: Path) -> tuple[Path, list[dict]]:
    (folder,) = runs.glob("*/*")
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").open()]
