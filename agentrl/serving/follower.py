"""Tensor parallelism: one engine over several ranks, of which the first leads.

vLLM's engines for ranks that were launched from outside (its ``external_launcher``) each have a
scheduler of their own. Their weights are one model's as long as all of them are given the same
calls in the same order and step together. So the first rank runs the episodes, and broadcasts
whatever it does to its schedule before it does it; the others follow.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from agentrl.serving.vllm_args import engine_lock


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
        """What the followers ``receive``; for the leader."""
        dist.broadcast_object_list([message], self._leader, self._group)

    def receive(self) -> tuple:
        """What the leader broadcasts next, in its order."""
        received: list[Any] = [None]
        dist.broadcast_object_list(received, self._leader, self._group)
        return received[0]


class Schedule:
    """vLLM's scheduler, as far as we decide about it: the calls of the next step, and the step.

    What is done to the leader's is broadcast to its followers first.
    """

    def __init__(self, llm: Any, followers: EngineRanks | None = None):
        self._llm, self._followers = llm, followers

    def add_request(self, number: str, prompt_ids: list[int], params: Any) -> None:
        """Raises ValueError where vLLM refuses the call."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input

        self.broadcast("add_request", number, prompt_ids, params)
        try:
            self._llm.add_request(number, tokens_input(prompt_ids), params)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error

    def abort(self, numbers: list[str]) -> None:
        self.broadcast("abort", numbers)
        # By our numbers: those that vLLM gives calls besides are others on every rank.
        self._llm.abort_request(numbers, internal=False)

    def reset_prefix_cache(self) -> None:
        self.broadcast("reset_prefix_cache")
        self._llm.reset_prefix_cache()

    def step(self) -> list[Any]:
        """The outputs of calls that are done.

        After the last of them nothing is in flight: async scheduling has begun a step more by then,
        in which new weights, or sleep, would meet the old.
        """
        self.broadcast("step")
        outputs = self._llm.step()
        while self._in_flight and not self._llm.has_unfinished_requests():
            outputs += self._llm.step()
        return outputs

    @property
    def _in_flight(self) -> Any:
        """The steps that vLLM has begun and not taken in; None without async scheduling."""
        return self._llm.engine_core.engine_core.batch_queue

    def broadcast(self, *message: Any) -> None:
        """What the followers, where there are any, ``receive``."""
        if self._followers:
            self._followers.broadcast(*message)


def follow(ranks: EngineRanks, schedule: Schedule, run_command: Callable[[], None]) -> None:
    """Do what the leader does, until it closes the engine; for the other ranks.

    run_command: waits for this rank's own part of a command of all ranks, and runs it.
    """
    while (message := ranks.receive()) != ("close",):
        match message:
            case ("command",):
                run_command()
            case ("add_request", *args):
                # The leader is refused it, too, and tells who asked.
                with engine_lock(), suppress(ValueError):
                    schedule.add_request(*args)
            case (name, *args):
                with engine_lock():
                    getattr(schedule, name)(*args)
