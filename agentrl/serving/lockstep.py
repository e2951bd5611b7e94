"""Lockstep: batches of an engine that do not depend on threads.

It steps only while every live episode waits for it, and takes calls in the order of their keys.
"""

from concurrent.futures import Future
from operator import attrgetter

from agentrl.serving.queued import QueuedCall


class Lockstep:
    """Which episodes live, and the calls of theirs that are not with vLLM yet, or not done."""

    def __init__(self) -> None:
        self.live: set[tuple] = set()
        self._held: list[QueuedCall] = []
        self._unfinished: dict[Future, tuple] = {}

    def hold(self, call: QueuedCall) -> None:
        self._held.append(call)
        self._unfinished[call.done] = call.rng_key[0]

    def everyone_waits(self) -> bool:
        self._unfinished = {d: episode for d, episode in self._unfinished.items() if not d.done()}
        return self.live <= set(self._unfinished.values())

    def admit(self) -> list[QueuedCall]:
        """The calls that were held, in the order of their keys."""
        held, self._held = sorted(self._held, key=attrgetter("rng_key")), []
        return held
