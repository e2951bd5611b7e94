"""Command line: ``--exp``, ``--algorithm`` and flags become one Config.

``parse(argv)`` takes ``--exp`` first, uses that experiment's ``config`` as the defaults, puts the
algorithm that ``--algorithm`` names in its place, and lets the other flags override both.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, replace
from io import StringIO, TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from agentrl.algorithms import GRPO
from agentrl.algorithms.named import algorithm_names, load_algorithm
from agentrl.callables import ROOT, callable_name, load_module
from agentrl.config import Config

EXPERIMENTS = ROOT / "experiments"
RENAMED = {
    "--advantages": "--algorithm path.py, a file that defines an `algorithm`",
    "--kernels": "--attention",
    "--wait-seconds": "--rank-timeout-seconds",
    "--model.max-len": "--model.max-model-len",
    "--model.checkpointing": "--model.recompute",
    "--optim.final-share": "--optim.final-lr-share",
    "--engine.memory-share": "--engine.gpu-memory-utilization",
    "--engine.tensor-parallel": "--engine.tensor-parallel-size",
    "--endpoint.host": "--server.host",
    "--endpoint.port": "--server.port",
    "--loss.clip-low": "--algorithm.clip-low",
    "--loss.clip-high": "--algorithm.clip-high",
    "--loss.correction-cap": "--algorithm.importance-sampling-cap",
}
"""Flags of before, and what takes their place."""
DEFINES_CONFIG = re.compile(r"^(config\b.*=|from .* import .*\bconfig\b)", re.MULTILINE)


def experiment_names() -> list[str]:
    """The modules and packages there that define a ``config``."""
    files, packages = EXPERIMENTS.glob("[!_]*.py"), EXPERIMENTS.glob("*/__init__.py")
    found = {**{file.stem: file for file in files}, **{p.parent.name: p for p in packages}}
    return sorted(
        n for n, f in found.items() if DEFINES_CONFIG.search(f.read_text("utf-8", "replace"))
    )


def load_experiment(name: str) -> Config:
    """Return ``config`` of experiments/NAME, or of the file at path/to/file.py."""
    return experiment_module(name).config


def experiment_module(name: str) -> ModuleType:
    """Import experiments/NAME, or the file at path/to/file.py, which defines a ``config``."""
    if not name.endswith(".py") and name not in experiment_names():
        if Path(f"{name}.py").is_file():
            raise ValueError(f"there is no experiment {name!r}: did you mean {name}.py?")
        raise ValueError(
            f"there is no experiment {name!r}: choose one of {', '.join(experiment_names())}, or "
            "give the path of a .py file"
        )
    module = load_module(name if name.endswith(".py") else module_name(name))
    if not isinstance(getattr(module, "config", None), Config):
        raise ValueError(f"{name} defines no `config` of type agentrl.config.Config")
    return module


def module_name(experiment: str) -> str:
    """The name in ``sys.modules`` of experiments/NAME, or of the file at path/to/file.py."""
    if experiment.endswith(".py"):
        return str(Path(experiment).resolve())
    return f"experiments.{experiment}"


Source = tuple[str, str | None, list[str]]
"""What a config comes from: ``--exp``, ``--algorithm``, and the other flags."""


def config_of(exp: str, algorithm: str | None, settings: Sequence[str], **shown: Any) -> Config:
    """The experiment's config with the algorithm and the settings in it. shown: as tyro takes it.

    Raises ValueError.
    """
    config = load_experiment(exp)
    if algorithm is not None:
        config = replace(config, algorithm=load_algorithm(algorithm))
    return tyro.cli(Config, args=list(settings), default=config, **shown)


def parse(
    argv: Sequence[str],
    description: str,
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    default_experiment: Callable[[argparse.Namespace], str | None] = lambda flags: None,
) -> tuple[Config, argparse.Namespace]:
    """The experiment's config with the flags in argv applied, and the command's own flags.

    ``add_flags`` declares those; given them, a command may know the experiment without --exp.
    Prints help or one sentence, and exits, where argv asks for help or cannot be used.
    """
    # What a terminal cannot show is spelled: no run ends for it.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    own.add_argument("--exp", metavar="NAME")
    own.add_argument("--algorithm", metavar="NAME")
    add_flags(own)
    flags, rest = own.parse_known_args(argv)
    flags.exp = flags.exp or default_experiment(flags)
    description = _describe(description, own)
    if flags.exp is None:
        asked = any(flag in argv for flag in ("-h", "--help"))
        print(description, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    try:
        _refuse_renamed(rest)
        flags.source = (flags.exp, flags.algorithm, rest)
        config = config_of(*flags.source, description=description)
    except ValueError as error:
        sys.exit(f"error: {error}")
    return config, flags


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with settings by their dotted names, each as its flag takes it.

    Raises ValueError, in a sentence, where one cannot be used.
    """
    others = {**settings}
    if (names := others.pop("algorithm", None)) is not None:
        config = replace(config, algorithm=load_algorithm(names))
    argv = []
    for name, value in others.items():
        values = value if isinstance(value, list | tuple) else [value]
        argv += [f"--{name.replace('_', '-')}", *map(str, values)]
    said = StringIO()
    try:
        with redirect_stderr(said):
            # As in a file, what is on or off is said.
            options = (tyro.conf.FlagConversionOff,)
            return tyro.cli(Config, args=argv, default=config, config=options)
    except SystemExit as stopped:
        # What tyro shows a person who typed flags: a box, and where to look for help.
        text = " ".join(re.sub("[\u2500-\u257f]", " ", said.getvalue()).split())
        told = re.split(" For full helptext| Argument helptext", text)[0]
        raise ValueError(re.split(r"Error parsing (?!--)\S+: ", told)[-1]) from stopped


def _refuse_renamed(argv: Sequence[str]) -> None:
    for flag in argv:
        name = flag.partition("=")[0].replace("_", "-")
        if name in RENAMED:
            raise ValueError(f"{name} has another name now: give {RENAMED[name]}")


def to_json(config: Config) -> str:
    """The resolved config as JSON; callables become their names."""

    def plain(value: Any) -> Any:
        if callable(value) or not dataclasses.is_dataclass(value):
            return callable_name(value) if callable(value) else str(value)
        # Not asdict, which copies: of what a callable holds, a lock cannot be.
        named = {"name": value.name} if isinstance(value, GRPO) else {}
        return named | {field.name: getattr(value, field.name) for field in fields(value)}

    return json.dumps(config, indent=2, default=plain)


def _describe(description: str, own: argparse.ArgumentParser) -> str:
    return (
        f"{description}\n{own.format_help()}\n"
        f"experiments: {', '.join(experiment_names())}, or a path to a .py file\n"
        f"algorithms: {', '.join(algorithm_names())}, a path to a .py file, or several with a +\n"
        "--exp NAME --help shows that experiment's settings, which are flags, too"
    )
