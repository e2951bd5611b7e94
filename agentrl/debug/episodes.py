"""Episodes one at a time in the main thread, where breakpoints work, and all there is to see.

A workflow may take as long as its author does in the debugger. What it or the judge raises is shown
with its traceback, and is the episode's cause as ever. Then Enter runs the same tasks again, with
the experiment imported anew: the engine stays, and so do breakpoints.
"""

import asyncio
import linecache
import math
from bdb import BdbQuit
from collections.abc import Callable, Sequence
from functools import wraps
from types import TracebackType
from typing import Any

import openai
from rich.traceback import Traceback

import agentrl
from agentrl.agents.episode import run_episode
from agentrl.config import Config
from agentrl.debug.transcript import print_merged, print_scores, print_transcript
from agentrl.printable import printable
from agentrl.runs.progress import Display
from agentrl.signals import Interrupted, Signals
from agentrl.types import EngineStopped, Episode, Group, Task

NOT_THE_AUTHORS = (agentrl, asyncio, openai)
"""Whose frames are named in a traceback, and not shown."""
STARTED_WITH = ("model", "sampling", "engine", "server", "auxiliary_models", "seed")
"""Settings that what is served has been started with."""
Raised = tuple[BaseException, TracebackType | None]


def debug(
    tasks: Sequence[Task],
    config: Config,
    serving: Any,
    *,
    step: int,
    display: Display,
    read_again: Callable[[Config], Config] | None = None,
    keep: Callable[[Sequence[Group]], None] | None = None,
) -> None:
    """Run an episode of each task and print it, and again whenever a person asks for it.

    serving: a ``Serving``, or an ``Upstream``. read_again: the config anew, from the last
    that was good; raises ValueError. keep: takes a round's episodes. Ctrl-C ends it all; a
    debugger's quit, this round.
    Raises EngineStopped where the engine has.
    """
    signals, started_with = Signals(), config
    signals.listen()
    try:
        while config is not None:
            groups = _run_all(tasks, config, serving, step, display, signals)
            if keep is not None and groups:
                keep(groups)
            config = read_again and _ask(config, started_with, read_again, display)
    except Interrupted:
        display.line("stopped")


def _run_all(
    tasks: Sequence[Task],
    config: Config,
    serving: Any,
    step: int,
    display: Display,
    signals: Signals,
) -> list[Group]:
    groups: list[Group] = []
    for task in tasks:
        raised: list[Raised] = []
        episode = _run(task, config, serving, step, raised)
        # In a workflow it is an error like any other.
        if signals.signal:
            raise Interrupted(signals.signal)
        if any(isinstance(error, BdbQuit) for error, _ in raised):
            break
        groups.append(Group(task, (episode,)))
        _show(display, serving, episode, raised)
        serving.engine.raise_if_stopped()
    return groups


def _ask(
    config: Config,
    started_with: Config,
    read_again: Callable[[Config], Config],
    display: Display,
) -> Config | None:
    """The experiment as it is on disk when a person wants to see it; None at the end."""
    while _is_wanted(display):
        try:
            anew = read_again(config)
        except ValueError as error:
            display.line(f"error: {error}")
            continue
        # A traceback quotes lines, and those of before are kept.
        linecache.checkcache()
        for name in STARTED_WITH:
            if getattr(anew, name) != getattr(started_with, name):
                display.line(f"warning: {name} has changed, which takes a new start to be heeded")
        return anew
    return None


def _is_wanted(display: Display) -> bool:
    display.line("Enter runs it again, as the files are by then; q ends")
    try:
        return input().strip() != "q"
    except EOFError:
        return False


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
        console.print("no calls were recorded", style="bold")
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
