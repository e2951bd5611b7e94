"""Contract between a researcher and us: a workflow, and perhaps a judge.

    async def solve(task, model, auxiliary_models) -> WorkflowOutput | float | dict[str, float]
    async def judge(task, response, auxiliary_models, episode) -> JudgeOutput | float | dict

The first two parameters are required; the others are passed only to functions that declare them.
A reward is a number, or a number for each agent by the name that ``model.agent(name)`` gave it.
``episode`` runs one of them.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter
from typing import Any, Protocol, SupportsFloat, TypeVar, runtime_checkable

from agentrl.callables import callable_name, underlying
from agentrl.types import Call, Episode, Reward, weighted_sum

RESERVED = re.compile(
    "(reward|episodes|tokens|gap|time|eval|success)/.*|pass@.*|step|success|failure|loss|clipped|importance"
    "|entropy|grad_norm|lr|degenerate"
)
"""Names of metrics that a run has of its own: ``docs/metrics.md``."""


@dataclass(frozen=True, kw_only=True)
class WorkflowOutput:
    """What a workflow may return besides a bare reward."""

    reward: Reward | None = None
    """None where a judge decides."""
    parts: Mapping[str, float] | None = None
    """In the reward's stead: named rewards, whose weighted sum it is."""
    response: Any = None
    """Handed to the judge."""
    success: bool | None = None
    """What evaluation counts; by default ``reward >= 1``, of every agent."""
    metadata: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeOutput:
    """What a judge may return besides a bare reward."""

    reward: Reward | None = None
    parts: Mapping[str, float] | None = None
    success: bool | None = None
    metrics: Mapping[str, float] | None = None


@runtime_checkable
class Model(Protocol):
    """What this module needs of the model that an episode talks to."""

    calls: tuple[Call, ...]
    seed: int
    """Of run, step, task and episode."""
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
    workers: Any
    """What runs episodes elsewhere (``agentrl.workers``); None: they run in this process."""

    def open(
        self, *, step: int, task_id: str, episode: int, **sampling: Any
    ) -> tuple[Model, dict[str, Any]]:
        """A new episode's client of the trained model, and those of the auxiliary ones.

        sampling: ``own_sampling`` and ``temperature``, see ``serving.recording.Recording``.
        """

    def release(self, model: Model) -> None:
        """An episode is over, and those that come after it are open."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids of the trained model's."""


def check_signatures(workflow: Callable, judge: Callable | None) -> None:
    """Raise ValueError, in one sentence, where a function does not follow the contract."""
    _check_signature("workflow", workflow, ["task", "model", "auxiliary_models"])
    if judge is not None:
        check_judge(judge)


def check_judge(judge: Callable, may_be_plain: bool = False) -> None:
    """As above, of a judge; may_be_plain: or of what is part of one, and need not be async."""
    names = ["task", "response", "auxiliary_models", "episode"]
    _check_signature("judge", judge, names, may_be_plain)


def _check_signature(
    kind: str, function: Callable, names: list[str], may_be_plain: bool = False
) -> None:
    where = f"the {kind} {callable_name(function).rpartition(':')[2]}"
    inner = underlying(function)
    is_async = any(map(inspect.iscoroutinefunction, (inner, type(inner).__call__)))
    if not (is_async or may_be_plain):
        raise ValueError(f"{where} is not async: define it with `async def`")
    parameters = parameters_of(function)
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


def parameters_of(function: Callable) -> list[str]:
    """The names of a function's parameters, but for those that a partial has given already."""
    given, inner = set(), inspect.unwrap(function)
    while isinstance(inner, partial):
        given |= inner.keywords.keys()
        inner = inner.func
    return [name for name in inspect.signature(function).parameters if name not in given]


async def invoke(function: Callable, *required: Any, **offered: Any) -> Any:
    """What a workflow or a judge returns, be it async or not; ``offered`` where it is declared."""
    declared, parameters = parameters_of(function), inspect.signature(function).parameters
    named = {name: value for name, value in offered.items() if name in declared}
    # Both may be for keywords alone, also where a partial has given what stands before.
    firsts = dict(zip(declared, required, strict=False))
    named |= {n: v for n, v in firsts.items() if parameters[n].kind is Parameter.KEYWORD_ONLY}
    returned = function(*(v for n, v in firsts.items() if n not in named), **named)
    return await returned if inspect.isawaitable(returned) else returned


Output = TypeVar("Output", WorkflowOutput, JudgeOutput)


def as_output(value: Any, kind: type[Output]) -> Output:
    """What a workflow or a judge returned; a bare reward becomes an output of that kind."""
    if isinstance(value, kind):
        for name in ("metadata", "metrics", "parts"):
            if not isinstance(given := getattr(value, name, None), Mapping | None):
                raise TypeError(f"{name} is {given!r}, not a dict")
        return replace(value, success=_success(value.success))
    if isinstance(value, SupportsFloat | Mapping):
        return kind(reward=_reward(value))
    who = "workflow" if kind is WorkflowOutput else "judge"
    raise TypeError(f"the {who} returned {type(value).__name__}, not a {kind.__name__} or a number")


def scored(
    episode: Episode,
    output: WorkflowOutput,
    verdict: WorkflowOutput | JudgeOutput,
    part_weights: Mapping[str, float],
) -> Episode:
    parts = {_name(n): _finite(f"the part {n}", p) for n, p in (verdict.parts or {}).items()}
    if parts and verdict.reward is not None:
        raise ValueError("a reward and parts were returned: leave the reward out, it is their sum")
    if not parts and verdict.reward is None:
        if isinstance(verdict, JudgeOutput):
            raise ValueError("the judge returned no reward")
        raise ValueError("the workflow returned no reward and the experiment has no judge")
    reward = _reward(weighted_sum(parts, part_weights) if parts else verdict.reward)
    rewards = reward.values() if isinstance(reward, dict) else [reward]
    success = verdict.success if verdict.success is not None else output.success
    metrics = {**(output.metrics or {}), **(verdict.metrics or {})}
    for name in metrics:
        if RESERVED.fullmatch(_name(name)):
            raise ValueError(f"a metric is called {name}, as one of every run's is: rename it")
    return replace(
        episode,
        reward=reward,
        parts=parts,
        success=bool(all(r >= 1 for r in rewards) if success is None else success),
        metrics={name: _finite(f"the metric {name}", value) for name, value in metrics.items()},
    )


def check_all_are_rewarded(episode: Episode, trained_agents: tuple[str, ...] | None) -> None:
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


def _success(value: Any) -> bool | None:
    if value is None or (isinstance(value, SupportsFloat) and float(value) in (0.0, 1.0)):
        return None if value is None else bool(value)
    raise TypeError(f"success is {value!r}, not True, False or None")


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
