"""What a person looks at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load(run: str | Path) -> Iterator[Any]:
    """The steps of a run's folder; see ``agentrl.watch.rollouts``."""
    # It knows torch, and half of this room has no need to.
    from agentrl.watch.rollouts import load

    return load(run)
