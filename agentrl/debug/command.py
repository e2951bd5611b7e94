"""The flags of rollout.py: what it is to do, and with whose model."""

import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agentrl.cli import experiment_names
from agentrl.config import Config
from agentrl.serving.recording import AgentKey

DESCRIPTION = """Run an agent without training it.

  --num-tasks K              show K episodes
  --evaluate                 measure all held-out tasks
  --debug                    one episode at a time, in the main thread: breakpoints work
  --serve                    leave the engine serving, for --debug --engine URL
  --chat CHECKPOINT          talk to it in the terminal; needs no --exp
"""
PLAIN = str(Path(__file__).with_name("plain.py"))
KEY_VARIABLE = "AGENTRL_API_KEY"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-tasks", type=at_least_one)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", action="store_true")
    what.add_argument("--debug", action="store_true")
    what.add_argument("--serve", action="store_true")
    what.add_argument("--chat", metavar="CHECKPOINT")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--checkpoint", metavar="DIR")
    whose.add_argument("--engine", metavar="URL", help="what --serve printed; with --debug")
    whose.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible one; so, too")
    parser.add_argument("--api-key", metavar="KEY", help=f"of either; else ${KEY_VARIABLE}")
    parser.add_argument("--model", metavar="NAME", help="at --base-url, where there are several")


def check(flags: argparse.Namespace) -> None:
    """Exit with a sentence where flags do not go together: what would be ignored is an error."""
    elsewhere = "--engine" if flags.engine else "--base-url" if flags.base_url else None
    for wrong, sentence in (
        (elsewhere and not flags.debug, f"{elsewhere} goes with --debug alone"),
        (flags.chat and flags.checkpoint, "--chat names the checkpoint itself: drop --checkpoint"),
        (flags.model and not flags.base_url, "--model names one at --base-url: give that, too"),
        (
            flags.api_key and not (elsewhere or flags.serve),
            "--api-key goes with --serve, --engine or --base-url",
        ),
        (
            flags.num_tasks is not None and (flags.serve or flags.chat or flags.evaluate),
            "--num-tasks goes with --debug, or with nothing else",
        ),
    ):
        if wrong:
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
    if flags.chat:
        return replace(config, auxiliary_models={})
    if flags.serve:
        # Those with a URL are the borrower's to reach. And a lender knows only of some episodes
        # what they wait for.
        own = {name: m for name, m in config.auxiliary_models.items() if m.url is None}
        return replace(config, auxiliary_models=own, deterministic=False)
    return config


def key_to_lend(flags: argparse.Namespace) -> str:
    """The key of --serve: given, or a new one."""
    return flags.api_key or os.environ.get(KEY_VARIABLE) or AgentKey.new_key()


def borrow(config: Config, flags: argparse.Namespace) -> Any | None:
    """Another process's model, where the flags name one. Raises ValueError in a sentence."""
    if not (flags.engine or flags.base_url):
        return None
    # These alone are quick to import.
    from agentrl.serving.remote import RemoteModel, key_of

    auxiliary = {
        name: partial(RemoteModel, model.model, model.url, key_of(name, model))
        for name, model in config.auxiliary_models.items()
        if model.url
    }
    key = flags.api_key or os.environ.get(KEY_VARIABLE)
    if key is None:
        raise ValueError(f"there is no key: give it with --api-key, or in {KEY_VARIABLE}")
    if flags.engine:
        from agentrl.serving.lent import LentServing, settings_of

        return LentServing(flags.engine, key, settings_of(config), auxiliary)
    from agentrl.serving.client import Serving
    from agentrl.serving.forwarded import Forwarded
    from agentrl.serving.server import Server

    missing = [name for name in config.auxiliary_models if name not in auxiliary]
    if missing:
        raise ValueError(
            f"with --base-url no engine is started here, but auxiliary_models.{missing[0]} needs "
            "one: give it a url"
        )
    endpoint = Server(host=config.server.host, port=config.server.port)
    served = Forwarded(flags.base_url, key, flags.model)
    return Serving(endpoint, served, auxiliary, seed=config.seed)


def at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}: give at least 1")
    return int(text)
