"""Seams: the functions of a config that take part in the loop, what they see, and their state.

A seam or an algorithm that remembers something has ``state() -> dict`` (JSON) and
``load_state(dict)``. Every checkpoint holds it; every rank has the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.config import Config
from agentrl.learning.policy import Policy
from agentrl.types import Group, Sample

NAMES = ("algorithm", "collect", "batches", "after_step", "load_policy")


@dataclass(frozen=True)
class Moment:
    """What ``after_step`` sees, on every rank, when a step's weights have been pushed."""

    step: int
    """Updates made so far."""
    groups: Sequence[Group]
    """All ranks'."""
    samples: Sequence[Sample]
    metrics: dict[str, Any]
    policy: Policy
    serving: Any


def state_of(config: Config) -> dict[str, Any]:
    """What the algorithm and the seams remember, by name."""
    return {name: seam.state() for name, seam in _remembering(config)}


def load_state(config: Config, state: dict[str, Any]) -> None:
    for name, seam in _remembering(config):
        if name in state:
            seam.load_state(state[name])


def _remembering(config: Config) -> Iterator[tuple[str, Any]]:
    for name in NAMES:
        if hasattr(getattr(config, name), "state"):
            yield name, getattr(config, name)
