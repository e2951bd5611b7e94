"""Episodes one at a time in the main thread, where breakpoints work, and all there is to see.

A workflow may take as long as its author does in the debugger. What it or the judge raises is shown
with its traceback, and is the episode's cause as ever.
"""

import asyncio
import math
from bdb import BdbQuit
from collections.abc import Callable, Sequence
from functools import wraps
from types import TracebackType
from typing import Any

import openai
from rich.traceback import Traceback

import agentrl
from agentrl.agents.contract import run_episode
from agentrl.config import Config
from agentrl.debug.transcript import print_merged, print_scores, print_transcript
from agentrl.printable import printable
from agentrl.runs.progress import Display
from agentrl.signals import Interrupted, Signals
from agentrl.types import EngineStopped, Episode, Task

NOT_THE_AUTHORS = (agentrl, asyncio, openai)
"""Whose frames are named in a traceback, and not shown."""
Raised = tuple[BaseException, TracebackType | None]


def debug(tasks: Sequence[Task], config: Config, serving: Any, *, step: int, display: Display):
    """Run an episode of each task and print it. Ctrl-C, or a debugger's quit, ends it all.

    Raises EngineStopped where the engine has.
    """
    signals = Signals()
    signals.listen()
    try:
        for task in tasks:
            raised: list[Raised] = []
            episode = _run(task, config, serving, step, raised)
            # In a workflow it is an error like any other.
            if signals.signal or any(isinstance(error, BdbQuit) for error, _ in raised):
                break
            _show(display, serving, episode, raised)
            serving.engine.raise_if_stopped()
        else:
            return
    except Interrupted:
        pass
    display.line("stopped")


def _run(task: Task, config: Config, serving: Any, step: int, raised: list[Raised]) -> Episode:
    model, auxiliary_models = serving.open(step=step, task_id=task["id"], episode=0)
    try:
        return run_episode(
            task,
            0,
            workflow=_noting(config.workflow, raised),
            judge=config.judge and _noting(config.judge, raised),
            model=model,
            auxiliary_models=auxiliary_models,
            seconds=math.inf,
            trained_agents=config.trained_agents,
        )
    finally:
        serving.release(model)


def _noting(function: Callable, raised: list[Raised]) -> Callable:
    """The same function; what it raises is noted."""

    @wraps(function)
    async def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except BaseException as error:
            # The first frame is this one. What comes before it is added as the error goes on.
            raised.append((error, error.__traceback__.tb_next))
            raise

    return noting


def _show(display: Display, serving: Any, episode: Episode, raised: list[Raised]) -> None:
    console = display.console
    try:
        print_transcript(console, episode, serving.decode)
    except EngineStopped:
        console.print("what its prompts said only the engine could tell", style="bold")
    for error, trace in raised:
        console.print(_traceback(error, trace))
    print_scores(console, episode)
    if not episode.calls:
        console.print("no calls were made", style="bold")
    elif not any(call.prompt_ids for call in episode.calls):
        console.print(
            f"{len(episode.calls)} calls; how they merge is not known without token ids",
            style="bold",
        )
    else:
        try:
            print_merged(console, episode.calls, serving.decode)
        except EngineStopped:
            console.print("how its calls merged only the engine could tell", style="bold")


def _traceback(error: BaseException, trace: TracebackType | None) -> Traceback:
    """As rich shows it; what it quotes of a model cannot steer the terminal."""
    extracted = Traceback.extract(type(error), error, trace)
    for stack in extracted.stacks:
        stack.exc_value = printable(stack.exc_value)
    return Traceback(extracted, suppress=NOT_THE_AUTHORS)
