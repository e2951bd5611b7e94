"""Flags of rollout.py: what it is to do, and with whose model."""

import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentrl.callables import callable_name, forget_modules
from agentrl.cli import experiment_names, module_name, parse
from agentrl.config import Config

DESCRIPTION = """Run an agent without training it.

  --num-tasks K              show K episodes
  --evaluate                 measure all held-out tasks
  --debug                    one episode at a time, in the main thread: breakpoints work, and Enter
                             runs it again with the experiment as it is on disk by then
  --chat CHECKPOINT          talk to it in the terminal; needs no --exp
"""
PLAIN = str(Path(__file__).with_name("plain.py"))
KEY_VARIABLE = "AGENTRL_API_KEY"
RESTING = ("--serve", "--engine")
"""Flags that wait for episodes in worker processes, which an engine serves by token ids."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-tasks", type=at_least_one)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", action="store_true")
    what.add_argument("--debug", action="store_true")
    what.add_argument("--chat", metavar="CHECKPOINT")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--checkpoint", metavar="DIR")
    whose.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server, for --debug")
    parser.add_argument("--api-key", metavar="KEY", help=f"of --base-url; else ${KEY_VARIABLE}")
    parser.add_argument("--model", metavar="NAME", help="at --base-url, where there are several")


def read(argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """The config and the flags. Exits with a sentence where they cannot be used together."""
    if resting := [flag for flag in RESTING if flag in {one.split("=")[0] for one in argv}]:
        _refuse(f"{resting[0]} rests: --debug holds the engine itself, and Enter runs an edit")
    config, flags = parse(argv, DESCRIPTION, add_flags, default_experiment)
    check(flags)
    return only_needed(config, flags), flags


def read_again(argv: list[str], flags: argparse.Namespace, config: Config) -> Config:
    """The config once more, with all modules of the experiment imported anew.

    Raises ValueError, with the lines at fault, where they cannot be.
    """
    functions = (callable_name(value) for value in vars(config).values() if callable(value))
    forget_modules([module_name(flags.exp), *functions])
    try:
        return read(argv)[0]
    except SystemExit as stopped:
        said = stopped.code if isinstance(stopped.code, str) else "it takes these flags no more"
        raise ValueError(said.removeprefix("error: ")) from stopped


def check(flags: argparse.Namespace) -> None:
    """Exit with a sentence where flags do not go together: what would be ignored is an error."""
    for wrong, sentence in (
        (flags.base_url and not flags.debug, "--base-url goes with --debug alone"),
        (flags.chat and flags.checkpoint, "--chat names the checkpoint itself: drop --checkpoint"),
        (flags.model and not flags.base_url, "--model names one at --base-url: give that, too"),
        (flags.api_key and not flags.base_url, "--api-key is of --base-url: give that, too"),
        (
            flags.num_tasks is not None and (flags.chat or flags.evaluate),
            "--num-tasks goes with --debug, or with nothing else",
        ),
    ):
        if wrong:
            _refuse(sentence)


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


def default_experiment(flags: argparse.Namespace) -> str | None:
    """With --chat: the experiment of the checkpoint's run, or one without tools."""
    if not flags.chat:
        return None
    from agentrl.debug.chat import experiment_of

    found = experiment_of(flags.chat)
    if found is None:
        return PLAIN
    if found in experiment_names() or Path(found).is_file():
        return found
    print(f"{found} is not here: talking without its tools. Give it with --exp", file=sys.stderr)
    return PLAIN


def only_needed(config: Config, flags: argparse.Namespace) -> Config:
    """Without what nobody here would use: auxiliary models that no episode asks."""
    return replace(config, auxiliary_models={}) if flags.chat else config


def find_upstream(config: Config, flags: argparse.Namespace) -> Any | None:
    """The server at --base-url, where that is given. Raises ValueError in a sentence."""
    if not flags.base_url:
        return None
    # They take a moment to import.
    from agentrl.debug.upstream import Upstream
    from agentrl.serving.remote import RemoteModel, key_of

    auxiliary = {
        name: partial(RemoteModel, model.model, model.url, key_of(name, model))
        for name, model in config.auxiliary_models.items()
        if model.url
    }
    key = flags.api_key or os.environ.get(KEY_VARIABLE)
    if key is None:
        raise ValueError(f"there is no key: give it with --api-key, or in {KEY_VARIABLE}")
    missing = [name for name in config.auxiliary_models if name not in auxiliary]
    if missing:
        raise ValueError(
            f"with --base-url no engine is started here, but auxiliary_models.{missing[0]} needs "
            "one: give it a url"
        )
    return Upstream(flags.base_url, key, flags.model, auxiliary)


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}: give at least 1")
    return int(text)
