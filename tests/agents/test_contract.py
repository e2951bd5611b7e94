import asyncio
import functools
import math
import threading
import time
from functools import partial
from types import MappingProxyType

import numpy as np
import pytest
import torch

from agentrl.agents.contract import JudgeOutput, WorkflowOutput, check_signatures
from agentrl.agents.episode import run_episode
from agentrl.serving.remote import RemoteModel
from tests.support.scripted_model import ScriptedModel

TASK = {"id": "t", "question": "?"}


def run(workflow, judge=None, model=None, seconds=5.0, trained_agents=None, part_weights=None):
    model = model or ScriptedModel()
    episode = run_episode(
        TASK,
        3,
        workflow=workflow,
        judge=judge,
        model=model,
        seconds=seconds,
        trained_agents=trained_agents,
        part_weights=part_weights,
    )
    assert model.closed
    assert (episode.task, episode.index, episode.calls) == (TASK, 3, model.calls)
    return episode


def rewarded(reward, agents=("solver", "checker"), trained_agents=None):
    """An episode of several agents whose workflow returns this."""

    async def solve(task, model):
        return reward

    return run(solve, model=ScriptedModel(agents=agents), trained_agents=trained_agents)


def test_a_bare_reward():
    async def solve(task, model):
        return 1

    episode = run(solve)
    assert (episode.status, episode.reward, episode.success) == ("ok", 1.0, True)


@pytest.mark.parametrize("by_judge", [False, True])
def test_a_reward_of_named_parts_is_their_weighted_sum(by_judge):
    parts = {"right": 1.0, "short": 0.5}

    async def solve(task, model):
        return WorkflowOutput(response="42") if by_judge else WorkflowOutput(parts=parts)

    async def judge(task, response):
        return JudgeOutput(parts=parts)

    episode = run(solve, judge if by_judge else None)
    assert (episode.reward, episode.parts, episode.success) == (1.5, parts, True)
    episode = run(solve, judge if by_judge else None, part_weights={"short": -1.0, "x": 9.0})
    assert (episode.reward, episode.parts, episode.success) == (0.5, parts, False)


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ({"reward": 1.0, "parts": {"a": 1.0}}, "ValueError: a reward and parts were returned"),
        ({"parts": {"a": math.inf}}, "ValueError: the part a is inf, not a finite number"),
        ({}, "ValueError: the judge returned no reward"),
    ],
)
def test_parts_that_cannot_be_are_a_failure(output, cause):
    async def solve(task, model):
        return WorkflowOutput(response="42")

    async def judge(task, response):
        return JudgeOutput(**output)

    episode = run(solve, judge)
    assert (episode.status, episode.reward, episode.parts) == ("error", None, {})
    assert episode.error.startswith(cause)


def test_the_judge_sees_the_response_and_the_episode():
    async def solve(task, model):
        return WorkflowOutput(response="42", metrics={"turns": 2.0})

    async def judge(task, response, episode):
        return JudgeOutput(
            reward=0.5, success=response == "42", metrics={"calls": float(len(episode.calls))}
        )

    episode = run(solve, judge)
    assert (episode.reward, episode.success) == (0.5, True)
    assert episode.metrics == {"turns": 2.0, "calls": 1.0}


def test_a_judge_may_take_the_response_by_keyword():
    async def solve(task, model):
        return WorkflowOutput(response="42")

    async def judge(task, *, response, episode):
        return float(response) + len(episode.calls)

    check_signatures(solve, judge)
    assert run(solve, judge).reward == 43.0


def test_auxiliary_models_go_to_those_who_declare_them():
    auxiliary = {name: RemoteModel("m", "http://127.0.0.1:1/v1", "k") for name in "ab"}

    async def solve(task, model, auxiliary_models):
        assert not auxiliary_models["a"].openai.is_closed()
        return float(len(auxiliary_models))

    model = ScriptedModel()
    episode = run_episode(
        TASK,
        0,
        workflow=solve,
        judge=None,
        model=model,
        seconds=5.0,
        auxiliary_models=auxiliary,
    )
    assert episode.reward == 2.0
    # Its connections end with the episode; the other's client was never made.
    assert auxiliary["a"].openai.is_closed()
    assert "openai" not in vars(auxiliary["b"])


class Solver:
    async def __call__(self, task, model):
        return 0.25

    async def solve(self, task, model, auxiliary_models):
        return 0.5 + len(auxiliary_models)


class Heir(Solver):
    def started(self, task, model): ...


async def styled(task, model, style):
    return style


async def led(lead, task, model, *, auxiliary_models):
    return lead + len(auxiliary_models)


async def by_keyword(task, *, model):
    return float(model.closed)


async def by_keywords_alone(*, task, model, auxiliary_models):
    return len(task) + len(auxiliary_models)


async def by_position(task, model, /):
    return float(model.closed)


async def between(task, style, model):
    return style


class Keyed:
    async def __call__(self, task, *, model):
        return 0.125


class Locked(Solver):
    def __init__(self):
        self.lock = threading.Lock()


@functools.wraps(by_keyword)
async def wrapped(*args, **kwargs):
    return 1 + await by_keyword(*args, **kwargs)


@pytest.mark.parametrize(
    ("workflow", "reward"),
    [
        (Solver(), 0.25),
        (Heir(), 0.25),
        (Solver().solve, 0.5),
        (partial(styled, style=0.75), 0.75),
        (partial(led, 2.0), 2.0),
        (partial(partial(styled), style=3.0), 3.0),
        (partial(Solver()), 0.25),
        (by_keyword, 0.0),
        (by_keywords_alone, 2.0),
        (by_position, 0.0),
        (partial(between, style=0.5), 0.5),
        (Keyed(), 0.125),
        (wrapped, 1.0),
        (Locked(), 0.25),
        (Locked().solve, 0.5),
    ],
)
def test_anything_that_can_be_awaited_is_a_workflow(workflow, reward):
    check_signatures(workflow, None)
    assert run(workflow).reward == reward


@pytest.mark.parametrize(
    ("workflow", "sentence"),
    [
        (Solver, "the workflow Solver is not async: define it with `async def`"),
        (Heir().started, "the workflow Heir.started is not async"),
        (partial(Heir().started), "the workflow Heir.started is not async"),
        (partial(styled, 1), r"the workflow styled takes \(model, style\): its parameters must be"),
        (styled, r"the workflow styled takes \(task, model, style\): its parameters must be"),
    ],
)
def test_what_cannot_be_awaited_with_a_task_and_a_model(workflow, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_signatures(workflow, None)


async def raises(task, model):
    raise KeyError("missing")


async def returns_text(task, model):
    return "fine"


async def returns_nothing(task, model):
    return None


async def returns_nan(task, model):
    return math.nan


async def measures_nonsense(task, model):
    return WorkflowOutput(reward=1.0, metrics={"speed": math.inf})


async def measures_what_is_ours(task, model):
    return WorkflowOutput(reward=1.0, metrics={"success": 0.0})


async def writes_to_the_terminal(task, model):
    raise ValueError("'\x1b[2J'")


async def forgets_the_reward(task, model):
    return WorkflowOutput(response="x")


async def raises_a_timeout_of_its_own(task, model):
    raise TimeoutError("the search service did not answer")


async def exits(task, model):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("workflow", "cause"),
    [
        (raises, "KeyError: 'missing'"),
        (returns_text, "TypeError: the workflow returned str, not a WorkflowOutput or a number"),
        (returns_nothing, "TypeError: the workflow returned NoneType"),
        (returns_nan, "ValueError: the reward is nan"),
        (measures_nonsense, "ValueError: the metric speed is inf, not a finite number"),
        (measures_what_is_ours, "ValueError: a metric is called success, as one of every run's is"),
        (writes_to_the_terminal, "ValueError: '\\x1b[2J'"),
        (forgets_the_reward, "ValueError: the workflow returned no reward and the experiment has"),
        (raises_a_timeout_of_its_own, "TimeoutError: the search service did not answer"),
        (exits, "SystemExit: 3"),
    ],
)
def test_a_failure_has_a_cause_and_no_reward(workflow, cause):
    episode = run(workflow)
    assert (episode.status, episode.reward, episode.success) == ("error", None, None)
    assert episode.error.startswith(cause)


def with_fields(output, fields):
    """As it is where nothing checks types, as pytest does here."""
    for name, value in fields.items():
        object.__setattr__(output, name, value)
    return output


class Nothing:
    def __repr__(self):
        return "nothing"


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"success": "no"}, "TypeError: success is 'no', not True, False or None"),
        ({"success": 0.5}, "TypeError: success is 0.5, not True, False or None"),
        ({"success": {"solver": True}}, "TypeError: success is {'solver': True}, not True, False"),
        ({"success": math.nan}, "TypeError: success is nan, not True, False or None"),
        ({"success": Nothing()}, "TypeError: success is nothing, not True, False or None"),
        ({"metrics": [("turns", 2.0)]}, "TypeError: metrics is [('turns', 2.0)], not a dict"),
        ({"metrics": 3}, "TypeError: metrics is 3, not a dict"),
        ({"metrics": ""}, "TypeError: metrics is '', not a dict"),
        ({"metadata": "text"}, "TypeError: metadata is 'text', not a dict"),
        ({"metadata": []}, "TypeError: metadata is [], not a dict"),
        ({"metadata": Nothing()}, "TypeError: metadata is nothing, not a dict"),
    ],
)
def test_what_is_returned_is_checked(fields, cause):
    """Of a workflow, also where a judge decides afterwards; and of a judge."""

    async def solve(task, model):
        return with_fields(WorkflowOutput(reward=1.0), fields)

    async def judge(task, response):
        return JudgeOutput(reward=1.0)

    async def judges_so(task, response):
        return with_fields(JudgeOutput(reward=1.0), fields)

    episodes = [run(solve), run(solve, judge)]
    if "metadata" not in fields:
        episodes.append(run(returns_one, judges_so))
    for episode in episodes:
        assert (episode.status, episode.reward, episode.success) == ("error", None, None)
        assert episode.error.startswith(cause)


async def returns_one(task, model):
    return 1


@pytest.mark.parametrize("no", [False, 0, 0.0, np.bool_(False), np.float32(0), torch.tensor(False)])
def test_success_of_other_libraries(no):
    async def solve(task, model):
        given = {"success": no, "metadata": MappingProxyType({"a": 1})}
        return with_fields(WorkflowOutput(reward=1.0), given)

    assert run(solve).success is False


def test_numbers_of_other_libraries():
    async def solve(task, model):
        return np.float32(0.5)

    async def judge(task, response):
        return torch.tensor(1.0)

    assert [run(solve).reward, run(solve, judge).reward] == [0.5, 1.0]
    assert [type(run(solve).reward), type(run(solve, judge).reward)] == [float, float]


def test_a_judge_that_raises():
    async def solve(task, model):
        return 1.0

    async def judge(task, response):
        raise RuntimeError("no verdict")

    episode = run(solve, judge)
    assert (episode.status, episode.error, episode.reward) == (
        "error",
        "RuntimeError: no verdict",
        None,
    )


def test_an_episode_that_takes_too_long():
    async def solve(task, model):
        await asyncio.sleep(60)

    started = time.monotonic()
    episode = run(solve, seconds=0.1)
    assert time.monotonic() - started < 5
    assert (episode.status, episode.error) == ("timeout", "the episode ran longer than 0.1 s")


def test_what_comes_too_late_is_not_scored():
    async def blocks(task, model):
        time.sleep(0.2)
        return 1.0

    async def answers_its_cancellation(task, model):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return 1.0

    for workflow in (blocks, answers_its_cancellation):
        episode = run(workflow, seconds=0.1)
        assert (episode.status, episode.reward) == ("timeout", None)


def test_a_judge_sees_the_task_as_it_was():
    async def solve(task, model):
        task["question"] = "2 + 2?"
        return 1.0

    async def judge(task, response):
        return float(task == TASK)

    assert run(solve, judge).reward == 1.0


def test_a_task_that_cannot_be_copied_is_a_failure():
    async def solve(task, model):
        return 1.0

    task = {"id": "t", "lock": threading.Lock()}
    episode = run_episode(task, 0, workflow=solve, judge=None, model=ScriptedModel(), seconds=5.0)
    assert episode.error == "TypeError: cannot pickle '_thread.lock' object"


def test_a_full_context_ends_an_episode_without_spoiling_it():
    async def solve(task, model):
        raise RuntimeError("400: context_length_exceeded")

    async def judge(task, response):
        return 0.0 if response is None else 1.0

    episode = run(solve, judge, ScriptedModel(context_full=True))
    assert (episode.status, episode.reward) == ("truncated", 0.0)
    assert episode.error == "RuntimeError: 400: context_length_exceeded"
    alone = run(solve, None, ScriptedModel(context_full=True))
    assert (alone.status, alone.reward) == ("truncated", None)
    assert alone.error == "RuntimeError: 400: context_length_exceeded"


def test_rewards_of_several_agents():
    given = {"solver": 1, "checker": np.float32(0.5)}
    expected = {"solver": 1.0, "checker": 0.5}

    async def judge(task, response):
        return JudgeOutput(reward=expected)

    async def leaves_it_to_the_judge(task, model):
        return WorkflowOutput(response="x")

    model = ScriptedModel(agents=("solver", "checker", "solver"))
    for episode in (
        rewarded(given),
        rewarded(WorkflowOutput(reward=expected)),
        run(leaves_it_to_the_judge, judge, model),
    ):
        assert (episode.status, episode.error, episode.reward) == ("ok", None, expected)
        assert episode.agents == ("solver", "checker")
        assert (episode.success, episode.mean_reward) == (False, 0.75)
        assert [type(reward) for reward in episode.reward.values()] == [float, float]
    assert rewarded({"solver": 1.0, "checker": 1.5}).success
    assert rewarded(WorkflowOutput(reward=expected, success=True)).success
    assert rewarded(0.5).reward_of("checker") == 0.5


def test_every_trained_agent_needs_a_reward():
    cause = (
        "ValueError: the agent checker made calls and has no reward (only solver): "
        "give it one, or leave it out of trained_agents"
    )
    alone = {"solver": 1.0}
    for trained_agents in (None, ("checker",), ("solver", "checker")):
        episode = rewarded(alone, trained_agents=trained_agents)
        assert (episode.status, episode.error, episode.reward) == ("error", cause, None)
    assert rewarded(alone, trained_agents=("solver",)).reward == alone
    # Who made no call needs none, and may have one.
    assert rewarded(alone, agents=("solver",)).reward == alone
    assert rewarded({"solver": 1.0, "checker": 0.0}, agents=("solver",)).success is False


@pytest.mark.parametrize(
    ("reward", "cause"),
    [
        ({"solver": 1.0, "checker": math.nan}, "ValueError: the reward of checker is nan, not a"),
        ({"solver": 1.0, "checker": None}, "TypeError: the reward of checker is None, not a numb"),
        ({}, "ValueError: the reward is an empty mapping: give a number, or one for each agent"),
    ],
)
def test_rewards_that_cannot_be_used(reward, cause):
    episode = rewarded(reward)
    assert (episode.status, episode.reward, episode.success) == ("error", None, None)
    assert episode.error.startswith(cause)


def not_async(task, model):
    return 1.0


async def misnamed(row, model):
    return 1.0


async def asks_for_more(task, model, tools):
    return 1.0


async def too_few(task):
    return 1.0


@pytest.mark.parametrize(
    ("workflow", "sentence"),
    [
        (not_async, "the workflow not_async is not async: define it with `async def`"),
        (misnamed, r"misnamed takes \(row, model\): its parameters must be task, model, then any"),
        (asks_for_more, r"asks_for_more takes \(task, model, tools\)"),
        (too_few, r"too_few takes \(task\): it needs task, model"),
    ],
)
def test_signatures_are_checked(workflow, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_signatures(workflow, None)


def test_a_judge_has_parameters_of_its_own():
    async def solve(task, model):
        return 1.0

    async def judge(task, model):
        return 1.0

    with pytest.raises(ValueError, match="the judge .*judge takes"):
        check_signatures(solve, judge)
