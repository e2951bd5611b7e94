"""Start: the tasks that a command is about, and the model that it asks."""

from argparse import Namespace
from dataclasses import replace

from agentrl.config import Config
from agentrl.runs import preflight
from agentrl.runs.model import find_model
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.serving.client import Serving
from agentrl.serving.start import serve
from agentrl.tasks.splits import find_tasks, read_splits
from agentrl.types import Task


def choose_tasks(flags: Namespace, config: Config) -> list[Task]:
    """Those that evaluation runs, or the first few to look at."""
    if flags.evaluate:
        return find_tasks(replace(config, eval=replace(config.eval, every=1)))[1]
    train, held_out = read_splits(config)
    return (held_out or train)[: flags.num_tasks or 1]


def start(config: Config, path: str | None, display: Display) -> Serving:
    """Serve a model in this process. Raises ValueError, in a sentence, where it cannot be."""
    preflight.check_serving_addresses(config)
    folder = first = find_model(config, path, display)
    if path and any(model.model is None for model in config.auxiliary_models.values()):
        # Of a checkpoint, what it was trained from.
        first = find_model(config, None, display)
    config = preflight.with_max_model_len(config, folder, display)
    preflight.check_serving(config, folder, display)
    with display.phase("loading"), quiet():
        return serve(config, folder, first)
