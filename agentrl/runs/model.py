"""Model that a run starts from: a folder, a hub name, or one that is made now."""

from pathlib import Path

from agentrl import hub
from agentrl.agents.contract import parameters_of
from agentrl.config import Config
from agentrl.learning.ranks import Ranks
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet


def find_model(config: Config, path: str | None, display: Display) -> str | Path:
    """The path, else the config's, else the one that the experiment makes.

    Raises ValueError, in a sentence, where it is no model that can be loaded.
    """
    path = path or config.model.path
    if path is None:
        with display.phase("tiny model") as report, quiet():
            given = {"data": config.data} if "data" in parameters_of(config.make_model) else {}
            return config.make_model(report, **given)
    hub.check_model(path)
    # It is loaded again when the run goes on, from wherever that is.
    return Path(path).resolve() if Path(path).is_dir() else path


def find_model_once(config: Config, ranks: Ranks, display: Display) -> str | Path:
    """Where the model has to be made, one process of a host does it, and the others wait."""
    if ranks.is_first_of_host:
        folder = find_model(config, None, display)
    ranks.wait("model")
    return folder if ranks.is_first_of_host else find_model(config, None, display)
