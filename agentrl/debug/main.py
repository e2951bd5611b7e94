"""What the flags of rollout.py say: episodes shown, measured, debugged, or a talk."""

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

from agentrl.agents.tools import ChatSetting
from agentrl.cli import experiment_module
from agentrl.config import Config
from agentrl.debug import command
from agentrl.debug.chat import talk
from agentrl.debug.engine import connect, serve_engine
from agentrl.debug.episodes import debug
from agentrl.debug.evaluate import evaluate_checkpoints
from agentrl.debug.kept import KeptEpisodes
from agentrl.debug.start import choose_tasks, start
from agentrl.debug.transcript import print_episode
from agentrl.debug.upstream import Upstream
from agentrl.runs.progress import Display
from agentrl.types import CannotStart, EngineStopped, Group, Task


def carry_out(
    config: Config, flags: Namespace, run_groups: Callable[..., list[Group]], step: int
) -> None:
    """run_groups, step: ``rollout``'s, and the one that evaluation has. Ends in a sentence."""
    display = Display()
    if flags.evaluate:
        evaluate_checkpoints(config, flags, display, run_groups)
        return
    try:
        tasks = [] if flags.chat or flags.serve else choose_tasks(flags, config)
        if flags.base_url:
            serving = Upstream(config, flags.base_url, flags.api_key, flags.model)
        elif flags.engine:
            serving = connect(config, flags.engine)
        else:
            serving = start(config, flags.chat or flags.checkpoint, display)
    except (ValueError, CannotStart) as error:
        sys.exit(f"error: {error}")
    try:
        _do(flags, config, serving, tasks, display, run_groups, step)
    except EngineStopped as error:
        sys.exit(f"error: {error}")


def _do(
    flags: Namespace,
    config: Config,
    serving: Any,
    tasks: list[Task],
    display: Display,
    run_groups: Callable[..., list[Group]],
    step: int,
) -> None:
    if flags.serve:
        serve_engine(config.server, serving, display)
        return
    again = partial(command.read_again, sys.argv[1:], flags)
    if flags.base_url:
        debug(tasks, config, serving, step, display, again)
        return
    keep = KeptEpisodes(config, flags, serving.tokenizer, display).add
    if flags.chat:
        model, _ = serving.open(step=step, task_id="talk", episode=0)
        setting = getattr(experiment_module(flags.exp), "talk", ChatSetting())
        talk(model, setting, display, serving.engine.raise_if_stopped)
    elif flags.debug:
        debug(tasks, config, serving, step, display, again, keep)
    else:
        with display.phase("episodes") as report:
            groups = run_groups(tasks, config, serving, report=report)
        for group in groups:
            print_episode(display.console, group.episodes[0], serving.decode)
        keep(groups)
