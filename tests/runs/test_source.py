"""The source in a run's folder is what ran, and runs again."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from agentrl.cli import load_experiment
from agentrl.callables import load_callable
from agentrl.runs import source
from agentrl.runs.run import Run

ROOT = Path(__file__).parents[2]

EXPERIMENT = """
from agentrl.config import Config, ModelConfig
from package_of_mine.rewards import REWARD

async def solve(task, model):
    return REWARD

def tasks(data):
    return [], []

config = Config(workflow=solve, tasks=tasks, group_size=5, model=ModelConfig(path="m"))
"""


def unpacked(archive: Path, folder: Path) -> set[str]:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_it_holds_the_repository_and_the_experiment_and_runs_again(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "package_of_mine").mkdir(parents=True)
    (mine / "my_experiment.py").write_text(EXPERIMENT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "my_experiment.py").write_text("async def judge(task, response): ...")
    load_callable(f"{tmp_path}/other/my_experiment.py:judge")
    (mine / "package_of_mine" / "__init__.py").touch()
    (mine / "package_of_mine" / "rewards.py").write_text("REWARD = 1.0\n")
    load_experiment(str(mine / "my_experiment.py"))
    source.save(tmp_path / "source.zip")
    assert (tmp_path / "source.zip").stat().st_size < 2**20
    again = tmp_path / "again"
    files = unpacked(tmp_path / "source.zip", again)
    # Not the files of the tests' own temporary folders, which other tests have imported.
    assert files >= {
        "experiment/my_experiment.py",
        "experiment/other/my_experiment.py",
        "experiment/package_of_mine/__init__.py",
        "experiment/package_of_mine/rewards.py",
        "repository/requirements.txt",
        "repository/experiments/gsm8k_subprocess/agent.mjs",
    }
    assert not [name for name in files if "site-packages" in name or name.endswith(".png")]
    for path in [*ROOT.glob("*.py"), *ROOT.glob("agentrl/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        assert (again / "repository" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()

    # As a person would, where there is neither the checkout nor git.
    asks = "import sys; from agentrl.config import parse; import agentrl; "
    asks += "name, config, _ = parse(sys.argv[1:], ''); "
    asks += "print(agentrl.__file__, name, config.group_size)"
    result = subprocess.run(
        [sys.executable, "-c", asks, "--exp", "../experiment/my_experiment.py"],
        cwd=again / "repository",
        capture_output=True,
        text=True,
    )
    expected = f"{again}/repository/agentrl/__init__.py my_experiment 5\n"
    assert result.stdout == expected, result.stderr
    # What was unpacked leaves the same source behind.
    monkeypatch.setattr(source, "ROOT", again / "repository")
    source.save(tmp_path / "second.zip")
    second = unpacked(tmp_path / "second.zip", tmp_path / "second")
    assert {n for n in second if n.startswith("repository/")} == {
        n for n in files if n.startswith("repository/") and "/." not in n
    } | {n for n in files if n == "repository/.gitignore"}


def test_what_is_not_committed_is_in_it(tmp_path, monkeypatch):
    repository = tmp_path / "checkout"
    (repository / "runs").mkdir(parents=True)
    for name, text in {
        ".gitignore": "runs/\n",
        "tracked.py": "x = 1\n",
        "deleted.py": "",
        "runs/ignored.py": "",
        "model.safetensors": "",
        ".env": "KEY=secret",
        ".env.local": "KEY=secret",
        "server.pem": "",
    }.items():
        (repository / name).write_text(text)
    for command in ("init -q", "add ."):
        subprocess.run(["git", *command.split()], cwd=repository, check=True)
    (repository / "deleted.py").unlink()
    (repository / "tracked.py").write_text("x = 2\n")
    (repository / "untracked.py").touch()
    # As in an image that was built to be the same each time.
    os.utime(repository / "untracked.py", (0, 0))
    (repository / "data.jsonl").write_text("x" * (source.MAX_BYTES + 1))
    monkeypatch.setattr(source, "ROOT", repository)
    monkeypatch.setattr(source, "_imported_from_elsewhere", lambda: iter(()))
    source.save(tmp_path / "source.zip")
    files = unpacked(tmp_path / "source.zip", tmp_path / "again")
    assert files == {f"repository/{n}" for n in (".gitignore", "tracked.py", "untracked.py")}
    assert (tmp_path / "again" / "repository" / "tracked.py").read_text() == "x = 2\n"


def test_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = Run.create(tmp_path / "runs", str(tmp_path / "mine.py"), "{}")
    assert (run.folder.parent.name, run.description["commit"]) == ("mine", None)
    assert run.description["file"] == str(tmp_path / "mine.py")
    assert "repository/train.py" in unpacked(run.folder / "source.zip", tmp_path / "again")
    # Another one in the same second.
    assert Run.create(tmp_path / "runs", "mine", "{}").folder != run.folder
