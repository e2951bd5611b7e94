"""Flags of rollout.py: what it is to do, and with which weights."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from agentrl.callables import callable_name, forget_modules
from agentrl.cli import module_name, parse
from agentrl.config import Config
from agentrl.runs.run import DESCRIPTION

ABOUT = """Run an agent without training it.

  --num-tasks K              show K episodes
  --evaluate                 measure all held-out tasks: of a model, of each --checkpoint, or of a
                             run's, all of them; started again it goes on
  --situations FOLDER        in the place of held-out tasks: see python -m agentrl.records freeze
  --debug                    one episode at a time, in the main thread: breakpoints work, and Enter
                             runs it again with the experiment as it is on disk by then;
                             with --base-url URL its workflow gets a plain client of that server
  --serve                    an engine that stays up, until Ctrl-C; --engine HOST:PORT is another
                             command's, which then starts in seconds: --debug, or with nothing
  --chat CHECKPOINT          talk to it in the terminal; one of a run needs no --exp
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-tasks", type=at_least_one)
    parser.add_argument("--checkpoint", metavar="DIR", nargs="+", dest="checkpoints", default=[])
    parser.add_argument("--situations", metavar="FOLDER", type=Path)
    parser.add_argument("--base-url", metavar="URL", help="of any OpenAI-compatible server")
    parser.add_argument(
        "--api-key", metavar="KEY", default=os.environ.get("OPENAI_API_KEY", "none")
    )
    parser.add_argument("--model", metavar="NAME", help="where that server has several")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", action="store_true")
    what.add_argument("--debug", action="store_true")
    what.add_argument("--chat", metavar="CHECKPOINT")
    what.add_argument("--serve", action="store_true")
    parser.add_argument("--engine", metavar="HOST:PORT", help="what --serve printed elsewhere")


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}: give at least 1")
    return int(text)


def read(argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """The config and the flags. Exits with a sentence where they cannot be used together."""
    config, flags = parse(argv, ABOUT, add_flags, default_experiment)
    # What would be ignored is an error.
    flags.checkpoint = flags.checkpoints[0] if flags.checkpoints else None
    if flags.situations and not flags.evaluate:
        _refuse("--situations goes with --evaluate")
    if len(flags.checkpoints) > 1 and not flags.evaluate:
        _refuse("several --checkpoint go with --evaluate: name one")
    if flags.chat and flags.checkpoint:
        _refuse("--chat names the checkpoint itself: drop --checkpoint")
    if flags.num_tasks and (flags.chat or flags.evaluate or flags.serve):
        _refuse("--num-tasks goes with --debug, or with nothing else")
    if flags.base_url and (not flags.debug or flags.checkpoint):
        _refuse("--base-url goes with --debug, and without --checkpoint")
    if flags.engine and (flags.evaluate or flags.chat or flags.serve or flags.checkpoint):
        _refuse("--engine goes with --debug, or with nothing else: its model is what --serve has")
    if flags.engine and flags.base_url:
        _refuse("--engine and --base-url are two models: name one")
    # No engine is started for auxiliary models that no episode asks.
    return replace(config, auxiliary_models={}) if flags.chat else config, flags


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def read_again(argv: list[str], flags: argparse.Namespace, config: Config) -> Config:
    """The config once more, with all modules of the experiment imported anew.

    Raises ValueError, with the lines at fault, where they cannot be.
    """
    forget_modules(named_in(config, flags.exp))
    try:
        return read(argv)[0]
    except SystemExit as stopped:
        said = stopped.code if isinstance(stopped.code, str) else "it takes these flags no more"
        raise ValueError(said.removeprefix("error: ")) from stopped


def named_in(config: Config, exp: str) -> list[str]:
    """The experiment's module and its functions, by their names."""
    functions = (callable_name(value) for value in vars(config).values() if callable(value))
    return [module_name(exp), *functions]


def default_experiment(flags: argparse.Namespace) -> str | None:
    """With --chat: what --exp was in the run that the checkpoint belongs to."""
    if not flags.chat:
        return None
    path = Path(flags.chat).resolve().parent.parent / DESCRIPTION
    try:
        described = json.loads(path.read_text())
        return described["file"] or described["experiment"]
    except (OSError, ValueError, KeyError):
        _refuse(f"{flags.chat} is no run's checkpoint: name an experiment with --exp")
