"""The ideas of tests/ideas: which there are, and how each is run."""

from pathlib import Path
from types import ModuleType

from agentrl.callables import load_module
from agentrl.cli import parse
from agentrl.config import Config
from tests.support.checkout import ROOT

FOLDER = ROOT / "tests" / "ideas"
LINES = {
    path.stem: len(path.read_text().splitlines())
    for path in sorted(FOLDER.glob("*.py"))
    if not path.stem.startswith("test_")
}
"""Of each idea, its file's."""


def load(idea: str) -> ModuleType:
    return load_module(str(FOLDER / f"{idea}.py"))


def flags(idea: str, teacher: str | Path, experiment: str = "gsm8k_offline") -> list[str]:
    """What train.py is given to run it: an experiment of its own, or an algorithm for another's."""
    path = str(FOLDER / f"{idea}.py")
    if hasattr(load(idea), "config"):
        return ["--exp", path]
    own = ["--algorithm.reference", str(teacher)] if idea == "distillation" else []
    return ["--exp", experiment, "--algorithm", path, *own]


def config_of(idea: str, model: str | Path) -> Config:
    """As train.py makes it of those flags; the model is its own teacher."""
    return parse([*flags(idea, model), "--model.path", str(model)], "")[0]
