"""Seams: the functions of a config that take part in the loop, what they see, and their state.

A seam or an algorithm that remembers something has ``state() -> dict`` (JSON) and
``load_state(dict)``. Every checkpoint holds it; every rank has the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.config import Config
from agentrl.learning.policy import Policy
from agentrl.runs.tally import Tally
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


class Seams:
    """Those of one config."""

    def __init__(self, config: Config):
        self._config = config
        found = {name: getattr(config, name) for name in NAMES}
        self._stateful = {name: seam for name, seam in found.items() if hasattr(seam, "state")}

    def state(self) -> dict[str, Any]:
        """What they remember, by name."""
        return {name: seam.state() for name, seam in self._stateful.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, seam in self._stateful.items():
            if name in state:
                seam.load_state(state[name])

    def after_step(
        self, step: int, tally: Tally, metrics: dict[str, Any], policy: Policy, serving: Any
    ) -> dict[str, Any]:
        """The metrics that ``config.after_step`` adds, where there is one."""
        if self._config.after_step is None:
            return {}
        moment = Moment(step, tally.groups, tally.samples, metrics, policy, serving)
        return self._config.after_step(moment) or {}
