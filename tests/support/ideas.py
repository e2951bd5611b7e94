"""Published ideas, the files of tests/ideas and the presets: which there are, how each is run."""

from pathlib import Path
from types import ModuleType

from agentrl.algorithms.named import algorithm_names
from agentrl.callables import load_module
from agentrl.cli import parse
from agentrl.config import Config
from tests.support.checkout import ROOT

FOLDER = ROOT / "tests" / "ideas"
PRESETS = [name for name in algorithm_names() if name != "grpo"]
"""What ``--algorithm`` knows by name, besides the base."""
FILES = {path.stem: path for path in FOLDER.glob("*.py") if not path.stem.startswith("test_")} | {
    name: ROOT / "agentrl" / "algorithms" / f"{name}.py" for name in PRESETS
}
LINES = {name: len(FILES[name].read_text().splitlines()) for name in sorted(FILES)}
"""Of each, its file's."""


def load(idea: str) -> ModuleType:
    return load_module(str(FILES[idea]))


def flags(idea: str, teacher: str | Path, experiment: str = "gsm8k_offline") -> list[str]:
    """What train.py is given to run it: an experiment of its own, or an algorithm for another's."""
    if idea not in PRESETS and hasattr(load(idea), "config"):
        return ["--exp", str(FILES[idea])]
    algorithm = idea if idea in PRESETS else str(FILES[idea])
    own = ["--algorithm.teacher", str(teacher)] if idea == "opd" else []
    return ["--exp", experiment, "--algorithm", algorithm, *own]


def config_of(idea: str, model: str | Path) -> Config:
    """As train.py makes it of those flags; the model is its own teacher."""
    return parse([*flags(idea, model), "--model.path", str(model)], "")[0]
