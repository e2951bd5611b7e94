"""Checkpoints of a run on the same tasks, by one engine; what was interrupted goes on."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import rollout
from agentrl.debug import evaluate
from agentrl.debug.checkpoints import find_checkpoints
from agentrl.learning.policy import Policy
from agentrl.records import __main__ as records_command
from agentrl.records import open_run
from agentrl.records.recorder import Recorder
from agentrl.runs.run import Run
from agentrl.serving.client import Serving
from agentrl.serving.server import Server
from agentrl.serving.weights import read_weights
from agentrl.types import Episode, Group
from tests.support.checkout import ROOT
from tests.support.debugging import write_agent
from tests.support.device import TOLERANCE
from tests.support.recorded import a_call
from tests.support.spy import make_handler

# All share one engine.
pytestmark = pytest.mark.slow
DRAW = Run.draw_curve
EASY = '{"id": "e0"}\n{"id": "e1"}\n{"id": "e2"}\n'
EDITS = (
    ("reward=0.25", "reward=float(len(response or '') % 2)"),
    ("    return JudgeOutput", "    time.sleep(SECONDS)\n    return JudgeOutput"),
    ("import threading", "import os, threading, time"),
    (
        "async def solve",
        "SECONDS = float(os.environ.get('SECONDS_A_JUDGEMENT', 0))\n\nasync def solve",
    ),
    ("max_tokens=16", "max_tokens=8"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    """A run's folder: the model that it began with, and three checkpoints of other weights."""
    folder = tmp_path_factory.mktemp("runs") / "agent" / "20260101-000000"
    for step in (1, 2, 3):
        checkpoint = folder / f"checkpoints/step-{step:05d}"
        shutil.copytree(tiny_folder, checkpoint)
        torch.manual_seed(step)
        lm = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        with torch.no_grad():
            for weight in lm.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        lm.save_pretrained(checkpoint)
        # As with a run, where a tokenizer is saved by another version: an engine of its own.
        (checkpoint / "generation_config.json").write_text('{"eos_token_id": 1}')
    described = {"experiment": "agent", "file": None, "model": str(tiny_folder), "resumed": []}
    described["config"] = {"sampling": {"temperature": 1.0, "max_tokens": 8}}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@pytest.fixture
def command(tmp_path, engine, tokenizer, monkeypatch, capsys):
    """rollout.py, over the tests' engine; and the folders that an engine was started on."""
    started = []

    def start(config, folder, display):
        started.append(folder)
        limits = {"max_tokens": config.sampling.max_tokens, "max_model_len": 512}
        handler = make_handler("policy", engine, tokenizer, "hermes", **limits)
        engine.sync(read_weights(Path(folder)))
        serving = Serving(Server(), handler, seed=config.seed, folder=folder)
        monkeypatch.setattr(serving, "close", serving.server.close)
        return serving

    monkeypatch.setattr(evaluate, "start", start)
    # It takes longer than what is drawn of.
    monkeypatch.setattr(Run, "draw_curve", lambda run: None)
    agent = write_agent(tmp_path, *EDITS)

    def call(*flags) -> str:
        argv = ["rollout.py", "--exp", agent, "--runs", tmp_path / "runs", "--evaluate", *flags]
        monkeypatch.setattr("sys.argv", [*map(str, argv)])
        rollout.main()
        return capsys.readouterr().out

    yield call, started
    engine.sync(read_weights(Path(tokenizer.name_or_path)))


def rows_of(tmp_path) -> list[dict]:
    (folder,) = tmp_path.glob("runs/agent/*-evaluation-*")
    return open_run(folder).metrics()


def table_of(said: str) -> list[list[str]]:
    """The cells of the printed table."""
    lines = [line for line in said.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]


def test_all_checkpoints_of_a_run(run, command, tmp_path, monkeypatch):
    """Two sets by name, two episodes a task; an engine for each that is another model otherwise."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Run, "draw_curve", DRAW)
    call, started = command
    (tmp_path / "easy.jsonl").write_text(EASY)
    flags = ("--checkpoint", run, "--eval.samples", "2", "--eval.sets")
    said = call(*flags, f"easy={tmp_path / 'easy.jsonl'}")
    start, first, *_ = find_checkpoints([str(run)])
    assert started == [start.folder, first.folder]
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    # Two tasks of the experiment's, and three; each twice.
    assert {row["eval/episodes/ok"] + row["eval/episodes/truncated"] for row in rows} == {10}
    for row in rows:
        shares = row["eval/test/success"], row["eval/easy/success"]
        assert row["eval/success"] == pytest.approx((4 * shares[0] + 6 * shares[1]) / 10)
        assert row["eval/success/low"] <= row["eval/success"] <= row["eval/pass@2"]
    header, *table = table_of(said)
    assert header == ["", "start", "step-00001", "step-00002", "step-00003"]
    cells = dict((name, of) for name, *of in table)
    assert [cell[:5] for cell in cells["success"]] == [f"{r['eval/success']:.3f}" for r in rows]
    assert {"easy/success", "test/success", "pass@2", "reward/mean", "failed"} <= set(cells)
    rise = rows[3]["eval/success"] - rows[0]["eval/success"]
    assert f"step-00003 against start, on 5 tasks: success {rise:+.3f} [" in said
    (folder,) = tmp_path.glob("runs/agent/*-evaluation-*")
    assert f"picture      {folder / 'curve.png'}" in said
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    # Every token is there, of two episodes a task.
    assert [len(open_run(folder).episodes(step=step)) for step in range(4)] == [10] * 4


def test_an_engine_takes_the_weights_of_another_folder(run, command, engine):
    """As well as if it had been started there; and none of a model that is otherwise another."""
    call, _ = command
    call("--checkpoint", run, "--eval.num-tasks", "1")
    (second, third) = (Policy.load(run / f"checkpoints/step-0000{i}") for i in (2, 3))
    scores = engine.score(engine.probe)
    assert third.probe_gap(engine.probe, scores) < TOLERANCE
    assert second.probe_gap(engine.probe, scores) > 100 * TOLERANCE


class Killed(Exception):
    """In the place of a kill, after which nothing is done any more."""


@pytest.mark.parametrize("half_a_row", [b"", b'{"step": 2, "eval/succ'])
def test_what_was_interrupted_goes_on(run, command, tmp_path, monkeypatch, half_a_row):
    """Killed when the episodes of the third are on the disk, and its row is not, or half of it."""
    call, started = command
    whole = table_of(call("--checkpoint", run))
    (alone,) = tmp_path.glob("runs/agent/*-evaluation-*")
    shutil.move(alone, tmp_path / "alone")
    log = Run.log

    def killed(self, row):
        if row["step"] == 2:
            with (self.folder / "metrics.jsonl").open("ab") as file:
                file.write(half_a_row)
            raise Killed
        log(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", killed)
        with pytest.raises(Killed):
            call("--checkpoint", run)
    started.clear()
    said = call("--checkpoint", run)
    assert "2 of 4 checkpoints are measured in" in said
    # What is there is not measured again.
    assert started == [str(run / "checkpoints/step-00002")]
    assert table_of(said) == whole
    assert [row["step"] for row in rows_of(tmp_path)] == [0, 1, 2, 3]
    # All there: no engine is started to see it.
    started.clear()
    assert table_of(call("--checkpoint", run)) == whole
    assert started == []


def test_nothing_else_is_mixed_in(run, command, tmp_path):
    """Settings, seed, tasks and code make another evaluation; weights another row."""
    call, started = command
    two = ("--checkpoint", *(run / f"checkpoints/step-0000{i}" for i in (2, 3)))
    call(*two)
    for flags in (["--seed", "1"], ["--eval.num-tasks", "1"]):
        assert "0 of 2 checkpoints" in call(*two, *flags)
    agent = tmp_path / "agent.py"
    agent.write_text(agent.read_text().replace("% 2", "% 3"))
    assert "0 of 2 checkpoints" in call(*two)
    agent.write_text(agent.read_text().replace("% 3", "% 2"))
    assert len({*tmp_path.glob("runs/agent/*-evaluation-*")}) == 4
    os.utime(two[2] / "model.safetensors")
    started.clear()
    assert "1 of 2 checkpoints" in call(*two)
    assert started == [str(two[2])]


def test_ctrl_c_says_how_to_go_on(run, command, tmp_path, monkeypatch, capsys):
    call, _ = command
    log = Run.log

    def interrupted(self, row):
        log(self, row)
        if row["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "log", interrupted)
    with pytest.raises(SystemExit) as exit_:
        call("--checkpoint", run)
    said = capsys.readouterr().out
    assert exit_.value.code == 130
    assert "SIGINT: 2 of 4 checkpoints are measured in" in said
    assert "the same command goes on from there" in said


def test_killed_it_goes_on_in_another_process(run, command, tmp_path):
    call, started = command
    flags = ["--runs", tmp_path / "runs", "--evaluate", "--checkpoint", run]
    process = subprocess.Popen(
        [sys.executable, "rollout.py", "--exp", tmp_path / "agent.py", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"SECONDS_A_JUDGEMENT": "0.5"},
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("runs/agent/*/metrics.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    measured = rows_of(tmp_path)
    assert 1 <= len(measured) < 4
    gone_on = table_of(call("--checkpoint", run))
    assert started[0] == find_checkpoints([str(run)])[len(measured)].folder
    assert rows_of(tmp_path)[: len(measured)] == measured
    (folder,) = tmp_path.glob("runs/agent/*-evaluation-*")
    shutil.move(folder, tmp_path / "gone_on")
    assert table_of(call("--checkpoint", run)) == gone_on


@pytest.fixture(scope="module")
def recorded(run, tokenizer):
    """The run has recorded a step, of two calls."""
    tokenizer.save_pretrained(run / "tokenizer")
    prompt = tokenizer.encode(
        "<|im_start|>user\nTom has 3 pens.<|im_end|>\n<|im_start|>assistant\n"
    )
    said = tokenizer.encode("print ( 3 )<|im_end|>")
    calls = a_call(prompt, said), a_call([*prompt, *said], said[:2], finish_reason="length")
    episode = Episode(task={"id": "pens"}, index=0, calls=calls, reward=0.0, success=False)
    recorder = Recorder(run / "records")
    recorder.add(1, [Group(episode.task, (episode,))])
    recorder.close()
    return calls


def freeze(monkeypatch, run, folder, *, call: int = 0, expect: str = "expect.py:is_even") -> None:
    flags = ["--step", 1, "--task", "pens", "--call", call, "--expect", expect, "--to", folder]
    monkeypatch.setattr("sys.argv", ["records", "freeze", *map(str, [run, *flags])])
    records_command.main()


def test_situations_over_the_checkpoints(run, recorded, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "expect.py").write_text("def is_even(answer):\n    return len(answer) % 2 == 0\n")
    situations = tmp_path / "some" / "situations"
    for call in (0, 1):
        freeze(monkeypatch, run, situations, call=call)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "pens-1-0-0: it said 'print ( 3 )', is_expected False"
    assert second.startswith("pens-1-0-1: it said 'print")
    call, _ = command
    last = run / "checkpoints/step-00003"
    flags = ("--eval.samples", "8", "--checkpoint", run / "checkpoints/step-00001", last)
    said = call("--situations", "some/situations", *flags)
    (folder,) = tmp_path.glob("runs/agent/*-evaluation-*")
    evaluated, shares = open_run(folder), []
    for step, number in itertools.product((0, 1), (0, 1)):
        rows = evaluated.episodes(step=step, task_id=f"pens-1-0-{number}")
        answers = [evaluated.read(step, row.task_id, row.episode).calls[0] for row in rows]
        # From the very ids, with the run's length; drawn anew each time.
        assert {tuple(a.prompt_ids) for a in answers} == {tuple(recorded[number].prompt_ids)}
        assert len({tuple(a.completion_ids) for a in answers}) > 4
        texts = [evaluated.text(a.completion_ids) for a in answers]
        assert max(len(a.completion_ids) for a in answers) == 8
        ends = [a.finish_reason == "length" and len(t) % 2 == 0 for a, t in zip(answers, texts)]
        shares.append(np.mean([row.success for row in rows]))
        whole = [row.success for row, a in zip(rows, answers) if a.finish_reason == "length"]
        assert whole == [end for end, a in zip(ends, answers) if a.finish_reason == "length"]
    cells = {name: of for name, *of in table_of(said)}
    assert cells["pens-1-0-0/success"] == [f"{shares[0]:.3f}", f"{shares[2]:.3f}"]
    assert cells["pens-1-0-1/success"] == [f"{shares[1]:.3f}", f"{shares[3]:.3f}"]
    assert "on 2 tasks: success" in said
    # What is expected is part of what is measured.
    (tmp_path / "expect.py").write_text("def is_even(answer):\n    return True\n")
    assert "0 of 2 checkpoints" in call("--situations", "some/situations", *flags)


def test_what_cannot_be_frozen_or_answered(run, recorded, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "expect.py").write_text("def is_even(answer):\n    return True\n")
    freeze(monkeypatch, run, "s")
    for wrong, sentence in (
        ({"call": 2}, "call is 2, and the episode made 2: they begin with 0"),
        ({"expect": "expect.py:odd"}, "expect.py has no function 'odd'"),
        ({}, "situations.jsonl has pens-1-0-0: remove its line to expect something else"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
            freeze(monkeypatch, run, "s", **wrong)
    lines = (tmp_path / "s/situations.jsonl").read_text()
    (tmp_path / "s/situations.jsonl").write_text(lines.replace("Tom has", "Ann has"))
    with pytest.raises(SystemExit, match="pens-1-0-0 says something else to this model"):
        command[0]("--situations", "s", "--checkpoint", run)
    with pytest.raises(SystemExit, match="cannot read nowhere/situations.jsonl"):
        command[0]("--situations", "nowhere", "--checkpoint", run)
