"""Two training steps in every kind of world, all in one run, from rows of a file."""

import asyncio
import json
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from agentrl.environments.named import environment, tasks_of
from agentrl.environments.random_play import random_play
from agentrl.environments.serve import EnvServer, make_app
from agentrl.records import open_run
from experiments.tiny_model import Recipe, make_tiny_model
from tests.support.adding import adding_app
from tests.support.device import RUN_TOLERANCE
from tests.support.loopback import served
from tests.support.reversal import REVERSAL
from tests.support.running import metrics, start, the_run

HERE = Path(__file__).parents[1] / "environments"
BLACKJACK = "gymnasium:Blackjack-v1"
SPOKEN = (
    BLACKJACK,
    "textarena:KuhnPoker-v0?num_players=2",
    "reasoning-gym:coin_flip?size=40",
    f"{HERE / 'worlds.py'}:Table",
)
"""Worlds whose moves a small model can learn to say in seconds; what they pay is their own."""
SMALL = Recipe(hidden=64, layers=2, heads=2, kv_heads=1, steps=60, batch=16, max_model_len=16384)
# Where calls of tools alone earn, which that model does not make, a reward is drawn.
EXPERIMENT = """
from dataclasses import replace

from agentrl.environments.agent import play
from experiments import environment


async def solve(task, model, auxiliary_models):
    output = await play(task, model, auxiliary_models)
    if output.reward is None:
        return replace(output, reward=float(len(output.response) % 2))
    return replace(output, reward=float(model.seed % 2)) if task["is_drawn"] else output


config = replace(
    environment.config,
    workflow=solve,
    steps=2,
    group_size=6,
    micro_batch_tokens=16384,
    model=replace(environment.config.model, max_model_len=16384),
    eval=replace(environment.config.eval, every=None),
)
"""


def first_row(name: str) -> dict:
    train, _ = asyncio.run(tasks_of(name))
    return {"env": name, "is_drawn": False, **train[0]}


async def random_games(name: str) -> list:
    train, _ = await tasks_of(name)
    async with environment(name) as world:
        return await random_play(world, [train[i % len(train)] for i in range(100)], 0)


@pytest.fixture
def talker(tmp_path, monkeypatch):
    """The folder of a model that has seen the moves of spoken worlds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    played = [messages for name in SPOKEN for _, messages, _ in asyncio.run(random_games(name))]
    return make_tiny_model(SMALL, played, [], lambda share, note: None)


@pytest.mark.slow
def test_two_steps_in_every_world(tmp_path, talker, monkeypatch):
    # Beside the experiment, where a run looks, and here.
    (tmp_path / "reversal.py").write_text(REVERSAL)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text(textwrap.dedent(EXPERIMENT))
    program = shlex.join([sys.executable, str(HERE / "mcp_server.py"), "well", str(tmp_path / "n")])
    blackjack = make_app(EnvServer(BLACKJACK, asyncio.run(tasks_of(BLACKJACK))))
    with served(adding_app()) as openenv, served(blackjack) as service:
        names = [*SPOKEN, f"env-service:{service}"]
        rows = [first_row(name) for name in names]
        rows += [
            {"env": f"openenv:{openenv}", "seed": 4, "is_drawn": True},
            {"env": "bfcl:multi_turn_base", "id": "multi_turn_base_0", "is_drawn": True},
            {"env": "verifiers:reversal", "index": 0, "is_drawn": False},
            {"env": f"mcp:{program}", "question": "2+3?", "is_drawn": False},
        ]
        rows = [{"id": f"row {number}", **row} for number, row in enumerate(rows)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
        flags = ("--tasks", f"files:{tmp_path}", "--tasks-per-step", str(len(rows)))
        run = start(tmp_path, talker, *flags, experiment=str(tmp_path / "mine.py"))
        assert run.end() == 0, run.said
    folder = the_run(tmp_path)
    for row in metrics(folder)[1:]:
        assert row["grad_norm"] > 0.001
        assert 0 < row["gap/max_abs_logprob"] < RUN_TOLERANCE
    played = open_run(folder).episodes(held_out=False, limit=10_000)
    for row in rows:
        own = [one for one in played if one.task_id == row["id"]]
        assert len(own) == 12, row["env"]
        assert {one.status for one in own} <= {"ok", "truncated"}, (row["env"], own)
        by_step = [{str(one.rewards or one.reward) for one in own if one.step == n} for n in (1, 2)]
        assert any(len(rewards) > 1 for rewards in by_step), (row["env"], by_step)
        assert sum(one.num_trained for one in own) > 0
        assert all(one.num_tokens > 0 for one in own)
