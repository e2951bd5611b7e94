"""Which calls an engine may step with, so that its batches do not depend on threads.

It steps only while every live episode waits for it, and takes calls in the order of their places.
"""

from collections.abc import Callable
from concurrent.futures import Future
from operator import itemgetter


class Lockstep:
    """Which episodes live, and the calls of theirs that are not with vLLM yet, or not done."""

    def __init__(self) -> None:
        self.live: set[tuple] = set()
        self._held: list[tuple[tuple, Future, Callable[[], None]]] = []
        self._unfinished: dict[Future, tuple] = {}

    def hold(self, rng_key: tuple, done: Future, add: Callable[[], None]) -> None:
        self._held.append((rng_key, done, add))
        self._unfinished[done] = rng_key[0]

    def everyone_waits(self) -> bool:
        self._unfinished = {d: episode for d, episode in self._unfinished.items() if not d.done()}
        return self.live <= set(self._unfinished.values())

    def admit(self) -> list[tuple[Future, Callable[[], None]]]:
        """The calls that were held, in the order of their places."""
        held, self._held = sorted(self._held, key=itemgetter(0)), []
        return [(done, add) for _, done, add in held]
