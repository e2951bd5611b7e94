"""Whole runs, as a person starts them: a process, a run's folder, real vLLM."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from agentrl.records import open_run
from agentrl.runs.preflight import CannotStart, check_trained_agents
from agentrl.runs.progress import Display
from agentrl.types import Call, Episode, Group
from tests.support.checkout import ROOT
from tests.support.commands import RANDOM_REWARDS, SHORT, read_metrics, run
from tests.support.device import RUN_TOLERANCE
from tests.support.gsm8k_rows import gsm8k_rows

EVERY_STEP = {
    *("reward/mean", "habit/no_print", "habit/impatient", "habit/malformed", "loss", "grad_norm"),
    *("episodes/ok", "episodes/truncated", "episodes/error", "episodes/timeout"),
    *("tokens/logical", "tokens/unique", "tokens/computed"),
    *("gap/mean_abs_prob", "gap/max_abs_logprob", "gap/probe"),
    *("time/rollout_seconds", "time/train_seconds", "time/sync_seconds", "time/step_seconds"),
}


def called_by(*agents: str) -> Group:
    calls = tuple(
        Call(prompt_ids=[1], completion_ids=[2], logprobs=[0.0], agent=agent) for agent in agents
    )
    return Group({"id": "t"}, (Episode(task={"id": "t"}, index=0, calls=calls, reward=1.0),))


def test_agents_that_make_no_call_are_said(capsys):
    groups = [called_by("solver"), called_by("checker", "solver")]
    for fine in (None, ("solver",), ("checker", "solver")):
        check_trained_agents(groups, fine, Display())
    # Nobody called: another failure, with a cause of its own.
    check_trained_agents([called_by()], ("solver",), Display())
    assert capsys.readouterr().out == ""

    check_trained_agents(groups, ("solver", "cheker"), Display())
    assert capsys.readouterr().out == (
        "warning: trained_agents names cheker, but the first batch has no such call: "
        "its agents are checker, solver\n"
    )
    with pytest.raises(CannotStart, match="^trained_agents names cheker, slover, but .*Choose"):
        check_trained_agents(groups, ("slover", "cheker"), Display())


def check_records(folder: Path, rows: list[dict]) -> None:
    """What is on the disk of every token comes to what was logged of all."""
    run = open_run(folder)
    assert run.batches()[0] == (0, True)
    assert run.steps() == [0, 1, 2]
    assert len(run.episodes(step=0)) == 8
    for step, row in zip([1, 2], rows[1:], strict=True):
        episodes = list(run.read_step(step))
        assert len(episodes) == 16
        scored = [episode for episode in episodes if episode.row.reward is not None]
        assert np.mean([e.row.reward for e in scored]) == pytest.approx(row["reward/mean"])
        calls = [call for episode in scored for call in episode.calls]
        assert sum(len(c.path) for c in calls) == row["tokens/logical"]
        sampler, trainer, entropies, weights = (
            np.concatenate([getattr(call, name) for call in calls])
            for name in ("sampler_logprobs", "trainer_logprobs", "entropies", "weights")
        )
        assert len(trainer) == row["tokens/trained"]
        assert np.abs(trainer - sampler).max() == row["gap/max_abs_logprob"]
        # They are stored to 12 significant bits.
        assert entropies.mean() == pytest.approx(row["entropy"], rel=2**-12)
        assert weights == pytest.approx(np.exp(trainer - sampler), rel=1e-6)
        advantages = np.repeat([c.advantage for c in calls], [len(c.entropies) for c in calls])
        assert -(weights * advantages).mean() == pytest.approx(row["loss"], abs=1e-6)
    assert run.metrics() == rows
    held_out = run.episodes(step=2, held_out=True)
    assert np.mean([row.success for row in held_out]) == rows[2]["eval/success"]
    said = run.decode(episodes[0].calls[0].completion_ids)
    whole = max((text for text in said if "\N{REPLACEMENT CHARACTER}" not in text), key=len)
    assert run.episodes(step=2, text=whole, limit=1) != []


@pytest.mark.slow
def test_a_short_run_leaves_a_whole_folder(tmp_path, tiny_folder):
    experiment = tmp_path / "random_rewards.py"
    experiment.write_text(textwrap.dedent(RANDOM_REWARDS))
    said = run(
        *("train.py", "--exp", str(experiment), "--model.path", str(tiny_folder)),
        *("--runs", str(tmp_path / "runs"), "--sampling.max-tokens", "24", *SHORT),
    )
    folder, rows = read_metrics(tmp_path / "runs")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [("eval/success" in row) for row in rows] == [True, False, True]
    for row in rows[1:]:
        assert set(row) >= EVERY_STEP
        assert sum(row[f"episodes/{s}"] for s in ("ok", "truncated", "error", "timeout")) == 16
        assert 0 < row["gap/max_abs_logprob"] < RUN_TOLERANCE
        assert 0 < row["gap/probe"] < RUN_TOLERANCE
        assert not row["degenerate"]
        assert row["grad_norm"] > 0.01
        assert row["tokens/unique"] < row["tokens/logical"]
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["workflow"] == "experiments.gsm8k.openai_sdk:solve"
    assert config["libraries"]["torch"].startswith("2.")
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")

    check_records(folder, rows)

    (checkpoint,) = (folder / "checkpoints").iterdir()
    before, after = (AutoModelForCausalLM.from_pretrained(p) for p in (tiny_folder, checkpoint))
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        # Two steps of AdamW move a weight by about the learning rate each.
        assert 1e-4 < (new - old).abs().max() < 1e-2
    assert f"--checkpoint {checkpoint}" in said
    assert "step 2/2" in said

    # What the summary says next is a command that works.
    said = run(
        "rollout.py", "--exp", "gsm8k_offline", "--num-tasks", "2", "--checkpoint", str(checkpoint)
    )
    assert said.count("reward ") == 2
    said = run(
        *("rollout.py", "--exp", "gsm8k_offline", "--evaluate", "--eval.num-tasks", "8"),
        *("--checkpoint", str(checkpoint)),
    )
    assert re.search(r"│ success +│ +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] │", said)


@pytest.mark.slow
def test_the_agent_of_the_readme(tmp_path, tiny_folder):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "my_agent.py").write_text(example)
    run(
        *("train.py", "--exp", str(tmp_path / "my_agent.py"), "--model.path", str(tiny_folder)),
        *(
            "--model.max-model-len",
            "256",
            "--sampling.max-tokens",
            "24",
            "--runs",
            str(tmp_path / "runs"),
        ),
        *SHORT,
    )
    _, rows = read_metrics(tmp_path / "runs")
    assert sum(row["episodes/ok"] + row["episodes/truncated"] for row in rows[1:]) == 32


@pytest.mark.slow
def test_two_steps_on_real_rows(tmp_path, tiny_folder):
    run(
        *("-m", "accelerate.commands.launch", "--num_processes", "1", "train.py", "--exp", "gsm8k"),
        *("--data.path", str(gsm8k_rows(tmp_path)), "--model.path", str(tiny_folder)),
        *(
            "--model.max-model-len",
            "1024",
            "--sampling.max-tokens",
            "64",
            "--runs",
            str(tmp_path / "runs"),
            *SHORT,
        ),
    )
    _, rows = read_metrics(tmp_path / "runs")
    assert [row["step"] for row in rows] == [0, 1, 2]
    # An untrained model solves nothing: a step whose rewards are all one has no gradient and no
    # trained tokens to compare, only the probe's.
    for row in rows[1:]:
        assert ("gap/max_abs_logprob" in row) == (not row["degenerate"])
        assert row.get("gap/max_abs_logprob", 0.0) < RUN_TOLERANCE
        assert 0 < row["gap/probe"] < RUN_TOLERANCE
    assert sum(row["episodes/ok"] + row["episodes/truncated"] for row in rows[1:]) == 32
