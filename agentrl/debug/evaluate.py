"""Evaluation of checkpoints, one after the other, on held-out tasks or recorded situations."""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace

from agentrl.config import Config
from agentrl.debug.checkpoints import Evaluation
from agentrl.debug.start import choose_tasks, start
from agentrl.records import situations
from agentrl.runs import preflight
from agentrl.runs.progress import Display
from agentrl.signals import Interrupted, Signals
from agentrl.types import CannotStart, EngineStopped, Group


def evaluate_checkpoints(
    config: Config, flags: Namespace, display: Display, run_groups: Callable[..., list[Group]]
) -> None:
    """Measure the checkpoints that have not been yet, and show all; run_groups: ``rollout``'s."""
    serving = None
    try:
        if flags.situations:
            tasks = situations.read_situations(flags.situations)
            config = replace(config, workflow=situations.answer, judge=None, trained_agents=None)
        else:
            tasks = choose_tasks(flags, config)
        preflight.check_ids([], tasks, display)
        evaluation = Evaluation(tasks, config, flags, display)
        Signals().listen()
        for checkpoint in evaluation.todo:
            # One engine, where nothing but the weights is another.
            if serving is None or not serving.load(checkpoint.folder):
                serving = serving and serving.close()
                serving = start(config, checkpoint.folder, display)
            if flags.situations:
                situations.check_tokens(tasks, serving.decode)
            with display.phase(checkpoint.name) as report:
                size = config.eval.samples
                groups = run_groups(tasks, config, serving, group_size=size, report=report)
            evaluation.add(checkpoint.step, groups, serving.tokenizer)
    except (ValueError, CannotStart, EngineStopped) as error:
        sys.exit(f"error: {error}")
    except Interrupted as signal:
        display.line(f"{signal}: {evaluation.progress}; the same command goes on from there")
        sys.exit(128 + signal.number)
    evaluation.show()
