"""A server of OpenEnv's: add numbers up to what is told."""

from random import Random
from typing import Any, Literal


def adding_app(at_once: int = 64) -> Any:
    """The game; at_once: so many, and no more."""
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation
    from pydantic import Field

    class Add(Action):
        """Adds a number."""

        number: int = Field(ge=1, le=9)
        how: Literal["softly", "loudly"] = "softly"

    class Sum(Observation):
        said: str

    class Adding(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def reset(self, seed=None, episode_id=None, split="none", index=-1):
            self.rng, self.total, self.split = Random(seed), 0, split
            self.wanted = self.rng.randint(5, 20)
            return Sum(said=f"Reach {self.wanted} ({split} {index}).")

        def step(self, action, **_):
            if self.split == "broken":
                raise OSError("no such split")
            self.total += action.number
            done = self.total >= self.wanted
            said = f"{self.total}, {action.how}, {self.rng.random()}"
            return Sum(
                said=said, done=done, reward=float(self.total == self.wanted) if done else None
            )

        @property
        def state(self):
            return None

        def list_splits(self):
            return ["train", "test"]

        def num_tasks(self, split):
            return {"train": 3, "test": 2}[split]

    return create_fastapi_app(Adding, Add, Sum, max_concurrent_envs=at_once)
