"""The contract between a researcher and us: a workflow, and perhaps a judge.

    async def solve(task, model, auxiliary_models) -> WorkflowOutput | float | dict[str, float]
    async def judge(task, response, auxiliary_models, episode) -> JudgeOutput | float | dict

The first two parameters are required; the others are passed only to functions that declare them.
A reward is a number, or a number for each agent by the name that ``model.agent(name)`` gave it.
One episode runs here, and its failures end here: whatever a workflow or a judge does wrong becomes
a status and a cause, never an exception in the training loop and never a silent reward of 0.

What an episode started ends with it: its requests, its tasks, the threads of ``asyncio.to_thread``,
the subprocesses of asyncio, and any program that was given ``model.environment``. Threads and
programs that it started otherwise are its own to end. What ``overrun`` cannot end is left behind.
"""

import copy
import inspect
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from agentrl.agents.event_loop import PATIENCE, EpisodeEventLoop, OutOfTime
from agentrl.agents.interrupt import ThreadInterrupt
from agentrl.callables import callable_name, underlying
from agentrl.printable import printable
from agentrl.types import Call, Episode, Reward, Task

RESERVED = re.compile(
    "(reward|episodes|tokens|gap|time|eval)/.*|step|success|failure|loss|clipped|importance"
    "|entropy|grad_norm|lr|degenerate"
)
"""Names of metrics that a run has of its own: ``docs/metrics.md``."""
LONGEST_CAUSE = 500
"""Characters of an exception's message that are kept."""


@dataclass(frozen=True, kw_only=True)
class WorkflowOutput:
    """What a workflow may return besides a bare reward."""

    reward: Reward | None = None
    """None where a judge decides."""
    response: Any = None
    """Handed to the judge."""
    success: bool | None = None
    """What evaluation counts; by default ``reward >= 1``, of every agent."""
    metadata: dict[str, Any] | None = None
    metrics: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeOutput:
    """What a judge may return besides a bare reward."""

    reward: Reward
    success: bool | None = None
    metrics: dict[str, float] | None = None


@runtime_checkable
class Model(Protocol):
    """What this module needs of the model that an episode talks to."""

    calls: tuple[Call, ...]
    context_full: bool
    truncated: bool

    def close(self) -> None: ...


@runtime_checkable
class EngineHealth(Protocol):
    """What running episodes needs of the engine that samples for them."""

    def raise_if_stopped(self) -> None:
        """Raise EngineStopped where nothing can be sampled any more."""


@runtime_checkable
class InferencePool(Protocol):
    """What running episodes needs of a run's models: a client of each for every episode."""

    num_tokens: int
    """Completion tokens that the trained model has sampled so far."""
    engine: EngineHealth

    def open(
        self, *, step: int, task_id: str, episode: int, own_sampling: bool = False
    ) -> tuple[Model, dict[str, Any]]:
        """A new episode's client of the trained model, and those of the auxiliary ones."""

    def release(self, model: Model) -> None:
        """An episode is over, and those that come after it are open."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids of the trained model's."""


def check_signatures(workflow: Callable, judge: Callable | None) -> None:
    """Raise ValueError, in one sentence, where a function does not follow the contract."""
    _check_signature("workflow", workflow, ["task", "model", "auxiliary_models"])
    if judge is not None:
        _check_signature("judge", judge, ["task", "response", "auxiliary_models", "episode"])


def run_episode(
    task: Task,
    index: int,
    *,
    workflow: Callable,
    judge: Callable | None,
    model: Model,
    seconds: float,
    auxiliary_models: dict[str, Any] | None = None,
    trained_agents: tuple[str, ...] | None = None,
) -> Episode:
    """Run one episode to its end in this thread, on an event loop of its own; never raises.

    Every trained agent that made a call needs a reward; where trained_agents is None, all are.
    """
    started, auxiliary = time.monotonic(), dict(auxiliary_models or {})
    # What a workflow does to its arguments stays with it.
    offered = {"auxiliary_models": dict(auxiliary)}
    try:
        with EpisodeEventLoop() as loop:
            try:
                work = _attempt(task, index, workflow, judge, model, offered, trained_agents)
                episode = loop.run_within(seconds, work)
            finally:
                model.close()
                with suppress(Exception):
                    loop.run_within(PATIENCE, _close(auxiliary))
    except OutOfTime:
        cause = f"the episode ran longer than {seconds:g} s"
        episode = failed(task, index, model.calls, "timeout", cause)
    except ThreadInterrupt:
        episode = blocked(task, index, model.calls, seconds)
    # SystemExit and CancelledError too: a thread that ends without a word would be waited for.
    except BaseException as error:
        episode = failed(task, index, model.calls, "error", _describe(error))
    return replace(episode, seconds=time.monotonic() - started)


async def _close(auxiliary_models: Mapping[str, Any]) -> None:
    for auxiliary in auxiliary_models.values():
        await auxiliary.aclose()


async def _attempt(
    task: Task,
    index: int,
    workflow: Callable,
    judge: Callable | None,
    model: Model,
    offered: dict[str, Any],
    trained_agents: tuple[str, ...] | None,
) -> Episode:
    """The workflow, then its verdict; raises what they raise, but for a context that is full."""
    output, cause = WorkflowOutput(), None
    try:
        # Its own copy: a workflow may write to its task.
        output = _as_output(await _call(workflow, copy.deepcopy(task), model, **offered))
    except Exception as error:
        if not model.context_full:
            raise
        # A context that is full ends the episode; a judge can say what it was worth so far.
        cause = _describe(error)
        if judge is None:
            return failed(task, index, model.calls, "truncated", cause)
    status = "truncated" if model.truncated else "ok"
    episode = Episode(
        task=task,
        index=index,
        calls=model.calls,
        status=status,
        error=cause,
        response=output.response,
        metadata=output.metadata or {},
    )
    verdict = output
    if judge is not None:
        own = copy.deepcopy(task)
        verdict = _as_verdict(await _call(judge, own, output.response, episode=episode, **offered))
    scored = _score(episode, output, verdict)
    _check_all_are_rewarded(scored, trained_agents)
    return scored


def _describe(error: BaseException) -> str:
    """Its kind and its message, whatever that is: endless, not text at all, or an error again."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read"
    kept = printable(message[:LONGEST_CAUSE].encode(errors="backslashreplace").decode())
    return f"{type(error).__name__}: {kept}{'...' * (len(message) > LONGEST_CAUSE)}"


def failed(task: Task, index: int, calls: tuple[Call, ...], status: str, cause: str) -> Episode:
    return Episode(task=task, index=index, calls=calls, status=status, error=cause)


def blocked(task: Task, index: int, calls: tuple[Call, ...], seconds: float) -> Episode:
    """An episode whose thread did not heed the end of its time."""
    cause = f"the workflow blocked its thread for over {seconds:g} s"
    return failed(task, index, calls, "timeout", cause)


def _check_signature(kind: str, function: Callable, names: list[str]) -> None:
    where = f"the {kind} {callable_name(function).rpartition(':')[2]}"
    inner = underlying(function)
    if not any(map(inspect.iscoroutinefunction, (inner, type(inner).__call__))):
        raise ValueError(f"{where} is not async: define it with `async def`")
    parameters = _parameters(function)
    if len(parameters) < 2:
        raise ValueError(
            f"{where} takes ({', '.join(parameters)}): it needs {', '.join(names[:2])}"
        )
    unknown = [name for name in parameters if name not in names]
    if unknown or parameters[:2] != names[:2]:
        raise ValueError(
            f"{where} takes ({', '.join(parameters)}): "
            f"its parameters must be {', '.join(names[:2])}, then any of {', '.join(names[2:])}"
        )


async def _call(function: Callable, *required: Any, **offered: Any) -> Any:
    declared = _parameters(function)
    return await function(*required, **{k: v for k, v in offered.items() if k in declared})


def _parameters(function: Callable) -> list[str]:
    """The names of a function's parameters, but for those that a partial has given already."""
    given, inner = set(), inspect.unwrap(function)
    while isinstance(inner, partial):
        given |= inner.keywords.keys()
        inner = inner.func
    return [name for name in inspect.signature(function).parameters if name not in given]


def _as_output(value: Any) -> WorkflowOutput:
    if isinstance(value, WorkflowOutput):
        return value
    if isinstance(value, SupportsFloat | Mapping):
        return WorkflowOutput(reward=_reward(value))
    raise TypeError(
        f"the workflow returned {type(value).__name__}, not a WorkflowOutput or a number"
    )


def _as_verdict(value: Any) -> JudgeOutput:
    if isinstance(value, JudgeOutput):
        return value
    if isinstance(value, SupportsFloat | Mapping):
        return JudgeOutput(reward=_reward(value))
    raise TypeError(f"the judge returned {type(value).__name__}, not a JudgeOutput or a number")


def _score(
    episode: Episode, output: WorkflowOutput, verdict: WorkflowOutput | JudgeOutput
) -> Episode:
    if verdict.reward is None:
        raise ValueError("the workflow returned no reward and the experiment has no judge")
    reward = _reward(verdict.reward)
    rewards = reward.values() if isinstance(reward, dict) else [reward]
    success = verdict.success if verdict.success is not None else output.success
    metrics = {**(output.metrics or {}), **(verdict.metrics or {})}
    for name in metrics:
        if RESERVED.fullmatch(_name(name)):
            raise ValueError(f"a metric is called {name}, as one of every run's is: rename it")
    return replace(
        episode,
        reward=reward,
        success=bool(all(r >= 1 for r in rewards) if success is None else success),
        metrics={name: _finite(f"the metric {name}", value) for name, value in metrics.items()},
    )


def _check_all_are_rewarded(episode: Episode, trained_agents: tuple[str, ...] | None) -> None:
    for agent in episode.agents:
        is_trained = trained_agents is None or agent in trained_agents
        if is_trained and episode.reward_of(agent) is None:
            raise ValueError(
                f"the agent {agent} made calls and has no reward (only {', '.join(episode.reward)})"
                ": give it one, or leave it out of trained_agents"
            )


def _reward(value: Any) -> Reward:
    if not isinstance(value, Mapping):
        return _finite("the reward", value)
    if not value:
        raise ValueError("the reward is an empty mapping: give a number, or one for each agent")
    return {_name(agent): _finite(f"the reward of {agent}", r) for agent, r in value.items()}


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} names a metric or an agent: give a str")
    return value


def _finite(name: str, value: Any) -> float:
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} is {value!r}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}, not a finite number")
    return number
