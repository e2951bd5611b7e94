"""Functions that AgentScope's tuner takes, as workflows and judges of ours."""

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from agentrl.callables import callable_name, named_like
from agentrl.tuner.configs import TunerModelConfig
from agentrl.types import Task

OPTIONAL = {"auxiliary_models", "logger"}
"""What a function gets where it declares it."""

log = logging.getLogger(__name__)


def check_workflow_function(func: Callable) -> None:
    """Raise ValueError unless it takes (task, model), and no more than is offered besides."""
    _check("workflow", func, {"task", "model"})


def check_judge_function(func: Callable) -> None:
    """Raise ValueError unless it takes (task, response), and no more than is offered besides."""
    _check("judge", func, {"task", "response"})


def _check(kind: str, func: Callable, needed: set[str]) -> None:
    parameters = inspect.signature(func).parameters
    starred = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    if starred or not needed <= {*parameters} <= needed | OPTIONAL:
        name, taken = callable_name(func).rpartition(":")[2], map(str, parameters.values())
        raise ValueError(
            f"the {kind} {name} takes ({', '.join(taken)}): it must take "
            f"{' and '.join(sorted(needed, reverse=True))}, by these names, and may take "
            f"{' and '.join(sorted(OPTIONAL))}"
        )


def as_workflow(
    func: Callable, config: TunerModelConfig | None, others: Mapping[str, TunerModelConfig]
) -> Callable:
    """A workflow of ours that hands AgentScope's models to one of AgentScope's."""
    check_workflow_function(func)
    arguments = config.template_arguments if config else {}

    async def workflow(task: Task, model: Any, auxiliary_models: dict) -> Any:
        offered = {"task": task, "model": _agentscope_model(model, arguments)}
        return await _call(func, offered, auxiliary_models, others)

    return named_like(workflow, callable_name(func))


def as_judge(func: Callable, others: Mapping[str, TunerModelConfig]) -> Callable:
    """A judge of ours that asks one of AgentScope's: a function, or a ``MetricBase``."""
    is_metric = hasattr(func, "metric_type")
    if not is_metric:
        check_judge_function(func)

    async def judge(task: Task, response: Any, auxiliary_models: dict) -> Any:
        if is_metric:
            returned = await func(_solution(task, response))
        else:
            offered = {"task": task, "response": response}
            returned = await _call(func, offered, auxiliary_models, others)
        # What a metric returns, whoever asked it.
        return float(returned.result) if hasattr(returned, "result") else returned

    return named_like(judge, callable_name(func))


def _solution(task: Task, response: Any) -> Any:
    """What a metric of AgentScope 1.x is called with; the task is its ``meta``."""
    from agentscope.evaluate import SolutionOutput

    return SolutionOutput(success=True, output=response, trajectory=[], meta=dict(task))


async def _call(func: Callable, offered: dict[str, Any], models: Mapping, configs: Mapping) -> Any:
    """What it returns, given what it declares. models: auxiliary ones, by name, as ``configs``."""
    auxiliary = {
        name: _agentscope_model(model, configs[name].sampling | configs[name].template_arguments)
        for name, model in models.items()
    }
    offered = {**offered, "auxiliary_models": auxiliary, "logger": log}
    declared = inspect.signature(func).parameters
    returned = func(**{name: value for name, value in offered.items() if name in declared})
    return await returned if inspect.isawaitable(returned) else returned


def _agentscope_model(model: Any, arguments: Mapping[str, Any]) -> Any:
    """AgentScope's model over a client each of whose calls begins with these arguments."""
    return model.calling_with(**arguments).agentscope if arguments else model.agentscope
