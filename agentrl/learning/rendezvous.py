"""Rendezvous: named waits of several processes, which know who is missing, failed or interrupted.

Between collectives ranks meet at named waits: whoever waits knows what for, and says who has not
come.
"""

import signal
import time
from contextlib import suppress
from functools import cached_property

import torch
import torch.distributed as dist

from agentrl.signals import Interrupted, Signals

POLL_SECONDS = 0.02
LOOK_SECONDS = 0.5
"""How often working ranks look whether another has failed or was interrupted."""
HURRY_SECONDS = 15.0
"""How long an interrupted rank waits for others. Launchers kill what has not ended in 30."""


class RankLost(RuntimeError):
    """Another rank has failed or did not come; in a sentence that says which."""


class Rendezvous:
    """Waits of this process and its peers. With one process, every wait is over at once."""

    def __init__(
        self, rank: int, size: int, device: torch.device, signals: Signals, timeout_seconds: float
    ):
        """timeout_seconds: how long to wait for a peer."""
        self.rank, self.size, self.device, self.signals = rank, size, device, signals
        self._timeout_seconds = timeout_seconds
        self._waits, self._looked = 0, 0.0

    @cached_property
    def _store(self) -> dist.Store:
        return dist.PrefixStore("agentrl", dist.distributed_c10d._get_default_store())

    def wait(self, what: str) -> None:
        """Return when every rank has come here.

        Raises RankLost, naming them, where some do not come in time or have failed; and Interrupted
        where one was interrupted on its way here.
        """
        if self.size == 1:
            return
        self._waits += 1
        self._store.set(f"waits/{self.rank}", str(self._waits))
        started = time.monotonic()
        while missing := self._missing():
            self._raise_if_failed()
            # Whoever ends us has no patience, and a rank that was killed never comes.
            patience = self._timeout_seconds if self.signals.signal is None else HURRY_SECONDS
            if time.monotonic() - started > patience:
                raise RankLost(
                    f"rank {', '.join(map(str, missing))} did not come to {what!r} "
                    f"within {patience:g} s"
                )
            time.sleep(POLL_SECONDS)
        if self._waits == self._interrupted_at():
            raise Interrupted(self.signals.signal or signal.SIGTERM)

    def check(self) -> None:
        """For work that a rank does by itself, often: raise Interrupted where this process or a
        peer was interrupted, RankLost where a peer has failed.

        Ranks that were interrupted meet in the next wait, wherever each of them was, and all of
        them raise there.
        """
        if self.size == 1:
            self._raise_if_interrupted()
        elif time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._raise_if_failed()
            if self.signals.signal is not None:
                self._store.set("interrupted", str(self._waits + 1))
            if self._interrupted_at() == self._waits + 1:
                self.wait("interruption")

    def check_in_step(self) -> None:
        """The same for work that all ranks do in step: all of them raise, or none."""
        if self.size > 1:
            # In the host's memory, by gloo: a GPU has its work queued, and is not waited for.
            asked = torch.tensor(float(self.signals.signal is not None))
            dist.all_reduce(asked)
            if asked.item() and self.signals.signal is None:
                raise Interrupted(signal.SIGTERM)
        self._raise_if_interrupted()

    def fail(self, sentence: str) -> None:
        """Tell the peers, who may be waiting, that this rank ends here."""
        if self.size > 1:
            # The first rank keeps the store, and may be gone.
            with suppress(dist.DistError):
                self._store.set("failed", f"rank {self.rank}: {sentence}")

    def _missing(self) -> list[int]:
        """Ranks that have come to fewer waits than this one."""
        came = [r for r in range(self.size) if self._store.check([f"waits/{r}"])]
        counts = self._store.multi_get([f"waits/{r}" for r in came])
        arrived = {r for r, n in zip(came, counts, strict=True) if int(n) >= self._waits}
        return [rank for rank in range(self.size) if rank not in arrived]

    def _interrupted_at(self) -> int | None:
        """The number of the wait in which all ranks raise Interrupted."""
        key = "interrupted"
        return int(self._store.get(key)) if self._store.check([key]) else None

    def _raise_if_interrupted(self) -> None:
        if self.signals.signal is not None:
            raise Interrupted(self.signals.signal)

    def _raise_if_failed(self) -> None:
        if self._store.check(["failed"]):
            raise RankLost(self._store.get("failed").decode())
