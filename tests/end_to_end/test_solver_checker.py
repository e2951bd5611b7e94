"""Two agents with rewards of their own: the scoring, and whole runs."""

import asyncio
import random
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest

from agentrl.agents.contract import check_signatures
from agentrl.config import DataConfig
from agentrl.records import open_run
from experiments import solver_checker
from experiments.solver_checker import hasty, is_right, transcripts
from tests.support.commands import SHORT, read_metrics, run
from tests.support.running import metrics, start, the_run
from tests.support.sizes import SLOW, SOAK


class Scripted:
    """A client behind which the solver says one thing and the checker answers each proposal."""

    def __init__(self, proposal, check):
        self._proposal, self._check = proposal, check
        self.openai = SimpleNamespace(chat=SimpleNamespace(completions=self))

    def agent(self, name):
        return self

    async def create(self, model, messages):
        system, user = messages
        _, shown, proposal = user["content"].partition("\nProposal: ")
        assert (system["content"] == solver_checker.CHECKER) == bool(shown)
        said = self._check(proposal) if shown else self._proposal
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=said))])


def score(task, proposal, check):
    return asyncio.run(solver_checker.solve(task, Scripted(proposal, check)))


def test_gold_answers_score_one():
    train, held_out = solver_checker.tasks(DataConfig())
    check_signatures(solver_checker.config.workflow, None)
    assert (len(train), len(held_out)) == (4000, 500)
    for task in held_out:
        for check in (lambda p, t=task: "agree" if is_right(p, t) else t["expression"],) * 2 + (
            lambda p, t=task: t["expression"],
        ):
            output = score(task, task["expression"], check)
            assert output.reward == {"solver": 1.0, "checker": 1.0}
            assert output.metrics["checker/given"] == 1.0


def test_the_bad_habits_score_what_they_deserve():
    _, held_out = solver_checker.tasks(DataConfig())
    outputs = [score(task, hasty(task), lambda proposal: "agree") for task in held_out]
    assert {output.reward["solver"] for output in outputs} == {0.0}
    # Always wrong about the solver's; right about half of the tasks' own.
    assert Counter(output.reward["checker"] for output in outputs) == {0.0: 250, 0.5: 250}
    assert Counter(output.metrics.get("habit/waved_through") for output in outputs) == {
        1.0: 250,
        None: 250,
    }
    # A checker that says nothing, or objects to everything, is no better.
    for says in ("", "0", "agree agree"):
        outputs = [score(task, task["expression"], lambda p, says=says: says) for task in held_out]
        assert all(output.reward["checker"] <= 0.5 for output in outputs)


def test_every_second_given_proposal_is_wrong():
    for side in solver_checker.tasks(DataConfig()):
        assert [is_right(task["given"], task) for task in side] == [False, True] * (len(side) // 2)


def test_transcripts_carry_the_two_bad_habits():
    rng, counts = random.Random(0), Counter()
    for task in islice(solver_checker.problems(0, held_out=False), 4000):
        solver, checker = (messages[-1]["content"] for messages in transcripts(task, rng))
        counts["hasty"] += solver == hasty(task)
        counts["solved"] += solver == task["expression"]
        counts["agreed"] += checker == "agree"
        counts["checked"] += checker == task["expression"]
    assert counts["hasty"] + counts["solved"] == counts["agreed"] + counts["checked"] == 4000
    assert counts["hasty"] / 4000 == pytest.approx(0.5, abs=0.025)
    assert counts["agreed"] / 4000 == pytest.approx(0.7, abs=0.025)


RANDOM_REWARDS = """\
import dataclasses, random
from experiments import solver_checker

async def judge(task, response):
    return {"solver": random.random(), "checker": random.random()}

config = dataclasses.replace(solver_checker.config, judge=judge)
"""


@pytest.mark.slow
def test_only_the_trained_agents_calls_are_trained(tmp_path, tiny_folder):
    experiment = tmp_path / "random_rewards.py"
    experiment.write_text(RANDOM_REWARDS)
    flags = (*SHORT, "--trained-agents", "solver")
    run = start(tmp_path, tiny_folder, *flags, experiment=str(experiment))
    assert run.end() == 0, run.said
    folder = the_run(tmp_path)
    rows = metrics(folder)
    run = open_run(folder)
    for row, step in zip(rows[1:], filter(None, run.steps()), strict=True):
        calls = [call for episode in run.read_step(step) for call in episode.calls]
        assert Counter(call.agent for call in calls) == {"solver": 16, "checker": 32}
        assert {call.agent for call in calls if call.advantage is not None} == {"solver"}
        assert row["tokens/trained"] == sum(
            len(call.completion_ids) for call in calls if call.agent == "solver"
        )
        assert not row["degenerate"]
        assert row["reward/mean"] == pytest.approx(
            (row["reward/solver"] + row["reward/checker"]) / 2
        )


BRIEF = """
import dataclasses
from experiments import solver_checker

# Half as long at school: enough to write expressions, and the habits are as strong.
solver_checker.RECIPE = dataclasses.replace(solver_checker.RECIPE, steps=140, transcripts=7000)
config = dataclasses.replace(
    solver_checker.config,
    steps=6,
    eval=dataclasses.replace(solver_checker.config.eval, every=6, num_tasks=100),
)
"""


@pytest.mark.parametrize(
    ("agents", "seed", "steps"),
    [
        pytest.param(("checker",), 0, 6, id="the checker, briefly", marks=SLOW),
        pytest.param(("checker",), 0, 10, id="the checker", marks=SOAK),
        pytest.param(("checker",), 1, 10, id="the checker, a second seed", marks=SOAK),
        pytest.param(("checker",), 2, 10, id="the checker, a third seed", marks=SOAK),
        pytest.param(("solver",), 0, 10, id="the solver", marks=SOAK),
        pytest.param(("solver", "checker"), 0, 10, id="both", marks=SOAK),
    ],
)
def test_who_is_trained_learns_and_who_is_not_does_not(tmp_path, agents, seed, steps):
    (tmp_path / "brief.py").write_text(BRIEF)
    experiment = str(tmp_path / "brief.py") if steps == 6 else "solver_checker"
    # Repeatable, so that these are always the same curves, and not now and then an unlucky one.
    flags = ("--deterministic", "--seed", str(seed), "--steps", str(steps))
    run(
        *("train.py", "--exp", experiment, "--runs", str(tmp_path / "runs"), *flags),
        *("--trained-agents", *agents),
    )
    _, rows = read_metrics(tmp_path / "runs")
    rise = {
        "solver": rows[-1]["eval/reward/solver"] - rows[0]["eval/reward/solver"],
        "checker": rows[-1]["eval/checker/given"] - rows[0]["eval/checker/given"],
    }
    assert {agent for agent in rise if rise[agent] > 0.25} == set(agents)
    assert all(abs(rise[agent]) < 0.15 for agent in rise if agent not in agents)
