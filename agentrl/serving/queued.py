"""Queue entries of an engine: calls of the model, and commands that run between its steps.

Each comes with the future that it resolves, so that nobody waits for a stepper that has ended.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class QueuedCall:
    """A call of the model; ``done`` becomes what ``read`` makes of vLLM's output."""

    number: str
    prompt_ids: list[int]
    params: Any
    """vLLM's SamplingParams."""
    read: Callable[[Any], Any]
    rng_key: tuple = ()
    """What lockstep goes by; empty: it goes at once."""
    done: Future = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class Command:
    """A function to call on the stepper's thread; ``done`` becomes what it returns."""

    function: Callable[..., Any]
    args: tuple = ()
    on_all_ranks: bool = False
    """Whether every rank of the engine has been given the same command."""
    done: Future = field(default_factory=Future)
