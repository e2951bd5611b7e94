"""docs/architecture.md says which files a task enters until its weight is pushed."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT
from tests.support.running import EXPERIMENT


def listed(heading: str) -> list[str]:
    """The paths that a section's list names, in order."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    items = [line for line in section.splitlines() if line.startswith("- ")]
    return [path for item in items for path in re.findall(r"`([\w./]+)`", item.split(" - ")[0])]


WAY, BESIDE = listed("The way of a task"), listed("Beside the way")


def test_the_way_is_short_and_there():
    assert len(WAY) == len(set(WAY)) <= 25
    assert [path for path in (*WAY, *BESIDE) if not (ROOT / path).exists()] == []


def is_listed(path: str) -> bool:
    return path in WAY or any(path == p or (p[-1] == "/" and path.startswith(p)) for p in BESIDE)


def test_a_file_that_is_nowhere_would_be_noticed():
    assert is_listed("agentrl/runs/session.py")
    assert not is_listed("agentrl/viewer/server.py")


@pytest.mark.slow
def test_a_step_enters_these_files_and_no_others(tmp_path, tiny_folder):
    # The demo, but for its rewards: of a model that has learned nothing they are all 0.
    flags = ["--exp", EXPERIMENT, "--model.path", tiny_folder, "--runs", tmp_path / "runs"]
    flags += ["--steps", "1", "--eval.every", "None"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.trace", tmp_path / "entered.json", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    entered = json.loads((tmp_path / "entered.json").read_text())
    assert [path for path in entered if not is_listed(path)] == []
    assert [path for path in WAY if path not in entered] == []
