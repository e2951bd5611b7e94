"""Episode: one attempt at a task, run to its end, with its failures contained.

Whatever a workflow or a judge does wrong becomes a status and a cause, never an exception in the
training loop and never a silent reward of 0.

What an episode started ends with it: its requests, its tasks, the threads of ``asyncio.to_thread``,
the subprocesses of asyncio, and any program that was given ``model.environment``. Threads and
programs that it started otherwise are its own to end. What ``interrupt`` cannot end is left behind.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agentrl.agents.contract import (
    JudgeOutput,
    Model,
    WorkflowOutput,
    as_output,
    check_all_are_rewarded,
    invoke,
    scored,
)
from agentrl.agents.event_loop import PATIENCE, EpisodeEventLoop, OutOfTime
from agentrl.agents.interrupt import ThreadInterrupt
from agentrl.printable import printable
from agentrl.types import Call, Episode, Task

LONGEST_CAUSE = 500
"""Characters of an exception's message that are kept."""


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
    part_weights: Mapping[str, float] | None = None,
) -> Episode:
    """Run one episode to its end in this thread, on an event loop of its own; never raises.

    Every trained agent that made a call needs a reward; where trained_agents is None, all are.
    part_weights: what named parts of a reward count, 1 where they are not named.
    """
    started, auxiliary = time.monotonic(), dict(auxiliary_models or {})
    # What a workflow does to its arguments stays with it.
    offered = {"auxiliary_models": dict(auxiliary)}
    try:
        with EpisodeEventLoop() as loop:
            try:
                work = _attempt(task, index, workflow, judge, model, offered, part_weights or {})
                episode = loop.run_within(seconds, work)
                if episode.scored:
                    check_all_are_rewarded(episode, trained_agents)
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
    part_weights: Mapping[str, float],
) -> Episode:
    """The workflow, then its verdict; raises what they raise, but for a context that is full."""
    output, cause = WorkflowOutput(), None
    try:
        # Its own copy: a workflow may write to its task.
        returned = await invoke(workflow, copy.deepcopy(task), model, **offered)
        output = as_output(returned, WorkflowOutput)
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
        metadata=dict(output.metadata or {}),
    )
    verdict = output
    if judge is not None:
        own = copy.deepcopy(task)
        returned = await invoke(judge, own, output.response, episode=episode, **offered)
        verdict = as_output(returned, JudgeOutput)
    return scored(episode, output, verdict, part_weights)


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
