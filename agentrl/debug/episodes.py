"""Episodes one at a time in the main thread, where breakpoints work, and all there is to see.

A workflow may take as long as its author does in the debugger. What it or the judge raises is shown
with its traceback, and is the episode's cause as ever. Then Enter runs the same tasks again, with
the experiment imported anew: the engine stays, and so do breakpoints.
"""

import asyncio
import linecache
import math
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from types import TracebackType
from typing import Any

import openai
from rich.console import Console
from rich.traceback import Traceback

import agentrl
from agentrl.agents.contract import InferencePool
from agentrl.agents.episode import run_episode
from agentrl.config import Config
from agentrl.debug.transcript import print_episode
from agentrl.printable import printable
from agentrl.runs.progress import Display
from agentrl.signals import Interrupted, Signals
from agentrl.types import Episode, Group, Task

NOT_THE_AUTHORS = (agentrl, asyncio, openai)
"""Whose frames are named in a traceback, and not shown."""
STARTED_WITH = ("model", "sampling", "engine", "server", "auxiliary_models", "seed")
"""Settings that what is served has been started with."""
Raised = tuple[BaseException, TracebackType | None]


def debug(
    tasks: Sequence[Task],
    config: Config,
    serving: InferencePool,
    step: int,
    display: Display,
    read_again: Callable[[Config], Config] | None = None,
    keep: Callable[[Sequence[Group]], None] = lambda groups: None,
) -> None:
    """Run an episode of each task and print it, and again whenever a person asks for it.

    read_again: the config anew, from the last that was good; raises ValueError. keep: takes a
    round's episodes. Ctrl-C ends it all; a debugger's quit, this round.
    Raises EngineStopped where the engine has.
    """
    signals, started_with = Signals(), config
    signals.listen()
    try:
        while config is not None:
            if groups := list(_run_all(tasks, config, serving, step, display.console, signals)):
                keep(groups)
            config = read_again and _ask(config, started_with, read_again, display)
    except Interrupted:
        display.line("stopped")


def _run_all(
    tasks: Sequence[Task],
    config: Config,
    serving: InferencePool,
    step: int,
    console: Console,
    signals: Signals,
) -> Iterator[Group]:
    for task in tasks:
        raised: list[Raised] = []
        episode = _run(task, config, serving, step, raised)
        # In a workflow it is an error like any other.
        if signals.signal:
            raise Interrupted(signals.signal)
        if any(isinstance(error, BdbQuit) for error, _ in raised):
            break
        tracebacks = [_traceback(*one) for one in raised]
        print_episode(console, episode, serving.decode, tracebacks)
        yield Group(task, (episode,))
        serving.engine.raise_if_stopped()


def _ask(
    config: Config,
    started_with: Config,
    read_again: Callable[[Config], Config],
    display: Display,
) -> Config | None:
    """The experiment as it is on disk when a person wants to see it; None at the end."""
    while True:
        display.line("Enter runs it again, as the files are by then; q ends")
        try:
            if input().strip() == "q":
                return None
            anew = read_again(config)
        except EOFError:
            return None
        except ValueError as error:
            display.line(f"error: {error}")
            continue
        # A traceback quotes lines, and those of before are kept.
        linecache.checkcache()
        for name in STARTED_WITH:
            if getattr(anew, name) != getattr(started_with, name):
                display.line(f"warning: {name} has changed, which takes a new start to be heeded")
        return anew


def _run(
    task: Task, config: Config, serving: InferencePool, step: int, raised: list[Raised]
) -> Episode:
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
            part_weights=config.algorithm.part_weights,
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


def _traceback(error: BaseException, trace: TracebackType | None) -> Traceback:
    """As rich shows it; what it quotes of a model cannot steer the terminal."""
    extracted = Traceback.extract(type(error), error, trace)
    for stack in extracted.stacks:
        stack.exc_value = printable(stack.exc_value)
    return Traceback(extracted, suppress=NOT_THE_AUTHORS)
