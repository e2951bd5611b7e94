"""One engine over several ranks: the first of them is asked, and the others do as it does.

vLLM's engines for ranks that were launched from outside (its ``external_launcher``) each have a
scheduler of their own. Their weights are one model's as long as all of them are given the same
calls in the same order and step together. So the first rank runs the episodes, and says whatever
it does to vLLM before it does it.
"""

from datetime import timedelta
from typing import Any

import torch.distributed as dist

SAID = ("add_request", "abort_request", "reset_prefix_cache", "step")


class EngineRanks:
    """The ranks that hold one engine: ``size`` neighbours, of which the first leads."""

    def __init__(self, size: int):
        for first in range(0, dist.get_world_size(), size):
            members = list(range(first, first + size))
            # Followers listen while nothing is sampled, which may be long.
            group = dist.new_group(members, timeout=timedelta(days=7), backend="gloo")
            if dist.get_rank() in members:
                self._group, self._leader = group, first
        self.leads = dist.get_rank() == self._leader

    def broadcast(self, *message: Any) -> None:
        """What the followers ``hear``; for the leader."""
        dist.broadcast_object_list([message], self._leader, self._group)

    def receive(self) -> tuple:
        """What the leader says next, in the order of its saying."""
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, self._leader, self._group)
        return heard[0]


class Leader:
    """vLLM's engine on the leader: what is done to it is said to the followers first."""

    def __init__(self, llm: Any, engine_ranks: EngineRanks):
        self._llm, self._engine_ranks = llm, engine_ranks

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._llm, name)
        if name not in SAID:
            return method

        def say_and_do(*args: Any, **kwargs: Any) -> Any:
            self._engine_ranks.broadcast(name, args, kwargs)
            return method(*args, **kwargs)

        return say_and_do
