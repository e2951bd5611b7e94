"""Installed from its wheel into an empty folder, and run from outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agentrl.records import open_run
from experiments import gsm8k_offline
from tests.support.checkout import ROOT
from tests.support.running import metrics

OUTSIDE = Path(__file__).with_name("outside")
AGENTSCOPE_1 = ROOT / ".environments" / "agentscope_1"
VARIANTS = ("AgentScope", "LangChain", "OpenAISDK", "RawHTTP")
FLAGS = "--steps 2 --tasks-per-step 2 --group-size 4 --eval.every None --optim.lr 1e-3 "
FLAGS += "--sampling.max-tokens 16 --model.max-model-len 1024"
# train.py as `python -m train` runs it, once for each in the same process: importing it is dear.
DRIVER = f"""
import sys, train
for name in {VARIANTS}:
    given = ["--workflow", "math_agent.py->" + name, "--judge", "math_agent.py->IsOdd"]
    sys.argv = ["train.py", "--exp", "gsm8k_offline", *given, *{FLAGS.split()}, *sys.argv[-4:]]
    train.main()
    print("returned", name)
"""


def test_what_is_installed_with_it_is_what_both_requirements_share():
    def pinned(file: str) -> list[str]:
        lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
        return [line for line in lines if line]

    gpu, cpu = pinned("requirements.txt"), pinned("requirements-cpu.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [line for line in gpu if line in cpu]
    assert not any("vllm" in line for line in project["dependencies"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder in which its wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source"]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    install = ["install", "--no-deps", "--no-compile", "--target", folder / "site", wheel]
    subprocess.run([*pip, *install], check=True)
    return folder / "site"


@pytest.fixture
def rows(tmp_path):
    problems = gsm8k_offline.problems(0, held_out=False)
    for name, count in (("train", 8), ("test", 2)):
        lines = [json.dumps(next(problems)) + "\n" for _ in range(count)]
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path / "rows"


def run(folder: Path, *command, path: tuple) -> str:
    """What it printed, where it went well. path: where it finds what it imports."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def check(run_folder: Path, steps: int) -> None:
    """Weights moved, on tokens that were sampled."""
    trained = [row for row in metrics(run_folder) if row["step"] > 0]
    assert [row["step"] for row in trained] == [*range(1, steps + 1)]
    assert all(row["grad_norm"] > 0 and row["gap/max_abs_logprob"] < 1e-4 for row in trained)
    episodes = open_run(run_folder).episodes(held_out=False, limit=1000)
    assert len(episodes) == 8 * steps
    assert {one.status for one in episodes} <= {"ok", "truncated"}
    assert (run_folder / "checkpoints" / f"step-{steps:05d}" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_guide_with_agentscope_2(site, rows, tmp_path, tiny_folder):
    said = run(tmp_path, OUTSIDE / "guide_2.py", tiny_folder, rows, path=(site,))
    folder = tmp_path / "runs" / "word problems" / "first"
    check(folder, 2)
    assert (folder / "source" / "guide_2.py").exists()
    held_out = {
        row["step"]: row["eval/success"] for row in metrics(folder) if "eval/success" in row
    }
    assert [*held_out] == [0, 1, 2]
    first, second = (line.split(" ", 2) for line in said.splitlines() if "returned" in line)
    assert float(first[1]) == max(held_out[0], held_out[1])
    assert float(second[1]) == max(held_out.values())
    best = max(held_out, key=lambda step: (held_out[step], step))
    kept = f"step-{best:05d}" if best else "step-00002"
    assert second[2] == f"runs/word problems/first/checkpoints/{kept} runs/word problems/first"
    assert said.count('"question":') == 2 * 2


@pytest.mark.slow
def test_the_guide_with_agentscope_1(site, rows, tmp_path, tiny_folder):
    path = (AGENTSCOPE_1, site)
    said = run(tmp_path, OUTSIDE / "guide_1.py", tiny_folder, rows, path=path)
    assert "returned None" in said
    (folder,) = (tmp_path / "runs" / "tune").iterdir()
    check(folder, 2)


@pytest.mark.slow
def test_agentjets_four_ways(site, rows, tmp_path, tiny_folder):
    shutil.copy(OUTSIDE / "math_agent.py", tmp_path)
    flags = ("--model.path", tiny_folder, "--data.path", rows)
    said = run(tmp_path, "-c", DRIVER, *flags, path=(AGENTSCOPE_1, site))
    assert [line.split()[1] for line in said.splitlines() if "returned" in line] == [*VARIANTS]
    folders = sorted((tmp_path / "runs" / "gsm8k_offline").iterdir())
    assert len(folders) == 4
    for folder, name in zip(folders, VARIANTS, strict=True):
        check(folder, 2)
        described = json.loads((folder / "config.json").read_text())
        assert described["config"]["workflow"].endswith(f"math_agent.py:{name}")
        assert (folder / "source" / "math_agent.py").exists()


@pytest.mark.slow
def test_without_vllm_it_says_what_to_install(site, rows, tmp_path, tiny_folder):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    flags = ["--exp", "gsm8k_offline", "--model.path", tiny_folder, "--data.path", rows]
    flags += FLAGS.split()
    done = subprocess.run(
        [sys.executable, "-m", "train", *map(str, flags)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{hidden}{os.pathsep}{site}"},
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: vLLM is not installed: ")
    assert "requirements.txt" in line
    assert "requirements-cpu.txt" in line
