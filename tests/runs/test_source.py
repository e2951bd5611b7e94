"""What a run's folder keeps of the source that ran."""

import subprocess

import pytest

from agentrl.cli import load_experiment, to_json
from agentrl.runs import provenance
from agentrl.runs.run import Run

EXPERIMENT = """
from agentrl.config import Config, ModelConfig
from package_of_mine.rewards import solve

config = Config(workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="m"))
"""
CHECKOUT = {
    ".gitignore": "runs/\n",
    **dict.fromkeys(("tracked.py", "deep/tracked.py", "deep/.env.local", "data.csv"), "SAFE = 1\n"),
}


def git(repository, *command):
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    subprocess.run(["git", *who, *command], cwd=repository, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """One with a commit, and what has changed since: code, other files, what git does not know."""
    (tmp_path / "checkout/deep").mkdir(parents=True)
    for name, text in CHECKOUT.items():
        (tmp_path / "checkout" / name).write_text(text)
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", "-f", ".")
    git(tmp_path / "checkout", "commit", "-qm", "one")
    for name in ("tracked.py", "deep/tracked.py", "deep/.env.local", "data.csv", "untracked.py"):
        (tmp_path / "checkout" / name).write_text("CHANGED = 2\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def files_of(run) -> set[str]:
    return {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}


def test_the_changes_and_the_experiment(tmp_path, checkout):
    mine = tmp_path / "mine"
    (mine / "package_of_mine").mkdir(parents=True)
    (mine / "my_experiment.py").write_text(EXPERIMENT)
    (mine / "package_of_mine/rewards.py").write_text("async def solve(task, model): ...\n")
    (mine / "never_imported.py").touch()
    config = to_json(load_experiment(str(mine / "my_experiment.py")))
    # A folder of runs that git does not ignore, in which an earlier run left something large.
    (checkout / "kept/x").mkdir(parents=True)
    (checkout / "kept/x/large.bin").write_bytes(b"x" * 2**22)
    run = Run.create(checkout / "kept", str(mine / "my_experiment.py"), config, model="m")
    copied = {"source/my_experiment.py", "source/package_of_mine/rewards.py"}
    assert files_of(run) == {"config.json", "source/changes.diff", *copied}
    assert (run.folder / "source/my_experiment.py").read_text() == EXPERIMENT
    diff = (run.folder / "source/changes.diff").read_text()
    changed = [line for line in diff.splitlines() if line.startswith(("diff", "+C"))]
    assert changed == [
        *("diff --git a/deep/tracked.py b/deep/tracked.py", "+CHANGED = 2"),
        *("diff --git a/tracked.py b/tracked.py", "+CHANGED = 2"),
    ]
    run.go_on(None, config)
    assert {f.replace("source", "source-resumed-1") for f in copied} < files_of(run)


def test_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = Run.create(tmp_path / "runs", str(tmp_path / "mine.py"), "{}", model="m")
    assert (run.folder.parent.name, run.description["commit"]) == ("mine", None)
    assert run.description["file"] == str(tmp_path / "mine.py")
    assert files_of(run) == {"config.json"}
    # Another one in the same second.
    assert Run.create(tmp_path / "runs", "mine", "{}", model="m").folder != run.folder
