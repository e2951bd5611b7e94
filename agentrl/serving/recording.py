"""Recording of one episode's calls: attempts, retries, and its end.

A request is an attempt. It is recorded when its response is delivered; one that is cancelled, times
out or whose client goes away is aborted in the engine and leaves nothing. When a client retries a
request, whatever the earlier attempt left is taken back. Identical requests that are no retries are
independent calls.
"""

import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

from agentrl.serving.history import History, Prefix, Prompt, add_prefix, remove_prefix
from agentrl.serving.protocol import Request, RequestRefused
from agentrl.types import Call


@dataclass(eq=False)
class Attempt:
    """One try at a request of one agent, and what it has come to."""

    recording: "Recording"
    agent: str
    fingerprint: bytes
    """Of the route and the body."""
    number: int
    futures: list[Future] = field(default_factory=list)
    """Its calls in the engine."""
    calls: tuple[Call, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    key: str | None = None
    """What the workflow called the state in which it was made."""
    state: Literal["running", "delivered", "lost", "over"] = "running"
    """lost: the client went away before it had the response; over: refused, or superseded."""


class Recording:
    """The calls of one episode. Its methods may be called from any thread."""

    def __init__(
        self,
        rng_key: tuple = (),
        *,
        own_sampling: bool = False,
        temperature: float | None = None,
        companions: Sequence["Recording"] = (),
    ):
        self.rng_key = rng_key
        """Run seed, step, task and episode: what its draws are seeded by."""
        self.companions = companions
        """Those of the episode's auxiliary models, which end with it."""
        self.own_sampling = own_sampling
        """Whether the agent's own temperature and the like are used: not in training."""
        self.temperature = temperature
        """What is used else; None: training's."""
        self.calls: list[Call] = []
        self.states: dict[str, str] = {}
        """Of each agent what its next call's is called, where it was told."""
        self._rewards: list[tuple[Call, float]] = []
        self.histories: dict[str, History] = {}
        self.conversations: dict[str, Request] = {}
        """Up to each response that can be gone on from, by its id."""
        self.context_full = False
        """Whether the last request did not fit any more."""
        self.is_open = True
        self.has_processes = False
        """Whether a program may have been given one of the keys."""
        self._attempts: list[Attempt] = []
        self._lock = threading.Lock()

    def begin(self, agent: str, fingerprint: bytes, *, is_retry: bool) -> Attempt:
        """Start an attempt; a retry takes back what the attempt before it left.

        Raises RequestRefused where the episode has ended.
        """
        with self._lock:
            if not self.is_open:
                raise RequestRefused(401, "invalid_api_key", "the episode has ended")
            attempt = Attempt(self, agent, fingerprint, len(self._attempts))
            attempt.key = self.states.pop(agent, None)
            if is_retry and (earlier := self._supersede(agent, fingerprint)):
                attempt.key = attempt.key or earlier.key
            self._attempts.append(attempt)
            return attempt

    def add(self, attempt: Attempt, futures: Sequence[Future]) -> None:
        """Note what an attempt waits for; at once cancelled where it is not wanted any more."""
        with self._lock:
            attempt.futures = list(futures)
            is_wanted = self.is_open and attempt.state == "running"
        if not is_wanted:
            _cancel(futures)

    def deliver(self, attempt: Attempt, prompt: Prompt, calls: Sequence[Call]) -> bool:
        """Record an attempt's calls just before they are sent; False: the episode has ended."""
        with self._lock:
            if not self.is_open or attempt.state != "running":
                return False
            attempt.state = "delivered"
            if attempt.key is not None:
                calls = [replace(call, state=attempt.key) for call in calls]
            attempt.calls, attempt.futures = tuple(calls), []
            # An agent that saw less than was sampled cannot go on from there.
            attempt.prefixes = tuple(Prefix(prompt, call) for call in calls if call.shown_whole)
            self.calls.extend(calls)
            history = self.histories.setdefault(attempt.agent, {})
            for prefix in attempt.prefixes:
                add_prefix(prefix, history)
            self.context_full = False
            return True

    def reward(self, agent: str, value: float) -> None:
        """Give an agent's last call a reward. Raises ValueError where there is no such call."""
        with self._lock:
            own = [call for call in self.calls if call.agent == agent]
            if not own or not math.isfinite(value):
                why = f"is {value}, not a finite number" if own else f"has no call yet of {agent}"
                raise ValueError(f"model.reward {why}")
            self._rewards.append((own[-1], float(value)))

    def rewarded_calls(self) -> tuple[Call, ...]:
        """The calls, each with the last reward that it was given."""
        with self._lock:
            rewards = {id(call): value for call, value in self._rewards}
            return tuple(
                replace(c, reward=rewards[id(c)]) if id(c) in rewards else c for c in self.calls
            )

    def drop(self, attempt: Attempt, state: Literal["lost", "over"]) -> None:
        """The client went away, or there is no response: nothing of the attempt stays."""
        with self._lock:
            self._withdraw(attempt, state)

    def close(self) -> None:
        """From now on nothing is recorded, and what still runs is aborted."""
        with self._lock:
            self.is_open = False
            futures = [future for attempt in self._attempts for future in attempt.futures]
        _cancel(futures)

    def _supersede(self, agent: str, fingerprint: bytes) -> Attempt | None:
        same = [a for a in self._attempts if (a.agent, a.fingerprint) == (agent, fingerprint)]
        # What the client lost is what it retries: a response that it got may be another call's.
        # Of those that run, the oldest is the likeliest to have timed out.
        for attempt in (
            *(a for a in same if a.state == "lost"),
            *(a for a in same if a.state == "running"),
            *(a for a in reversed(same) if a.state == "delivered" and not self._went_on(a)),
        ):
            self._withdraw(attempt, "over")
            return attempt
        return None

    def _went_on(self, attempt: Attempt) -> bool:
        """Whether a later call continues one of these: then the client did get the response."""
        return any(
            later.prompt_ids[: len(call.ids)] == call.ids
            for call in attempt.calls
            for later in self.calls
        )

    def _withdraw(self, attempt: Attempt, state: Literal["lost", "over"]) -> None:
        if attempt.state == "over":
            return
        attempt.state = state
        _cancel(attempt.futures)
        for prefix in attempt.prefixes:
            remove_prefix(prefix, self.histories[attempt.agent])
        gone = {id(call) for call in attempt.calls}
        self.calls[:] = [call for call in self.calls if id(call) not in gone]
        attempt.calls, attempt.prefixes, attempt.futures = (), (), []


def _cancel(futures: Sequence[Future]) -> None:
    for future in futures:
        future.cancel()
