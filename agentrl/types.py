"""Types of an episode and its parts, and the legend of axes used everywhere.

    P  tasks per step              G  episodes per task
    T  tokens of a packed tree     M  trained tokens of that tree      N  loss terms (M <= N)
    V  vocabulary    C  model width    H  query heads    K  key/value heads    D  head dim

Names end in an axis (``rewards_G``) only where they are ragged Python lists. ``logprobs[t]`` is the
log-probability OF token t, given everything before it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

Task = dict[str, Any]
"""One row of the dataset. Always has a stable ``"id"``."""
EVAL_SET = "eval_set"
"""The key of a held-out task under which the name of its set stands, where that has one."""

Message = dict[str, Any]
"""A chat message in OpenAI's form."""


def message_key(message: Message) -> tuple:
    """The identity of a message: role, text and tool calls by value; not ids or formatting.

    >>> a = {"role": "tool", "content": "3", "tool_call_id": "x"}
    >>> message_key(a) == message_key({"role": "tool", "content": "3", "tool_call_id": "y"})
    True
    """
    calls = tuple(
        (call["function"]["name"], _canonical_arguments(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    )
    if message["role"] == "assistant":
        # Clients strip what the model said, and give it names.
        return "assistant", message["content"].strip(), calls
    return message["role"], message["content"], message.get("name"), calls


# A conversation's calls come again with each of its requests.
@lru_cache(maxsize=4096)
def parsed_arguments(text: str) -> Any:
    """A tool call's arguments, from their JSON; the text itself, where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_sorted_json = json.JSONEncoder(sort_keys=True).encode


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    return _sorted_json(parsed_arguments(text))


def _canonical_arguments(arguments: Any) -> str:
    return _canonical(arguments) if isinstance(arguments, str) else _sorted_json(arguments)


Report = Callable[[float, str], None]
"""How long work tells a progress display where it is: a share from 0 to 1, and a few words."""

Reward = float | dict[str, float]
"""What an episode was worth: a number is every agent's; else each agent's own, by its name."""

Status = Literal["ok", "truncated", "error", "timeout"]
"""``ok`` and ``truncated`` episodes are judged and trained; the others are counted by cause."""
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to the model: exactly what the engine was given and what it returned.

    >>> call = Call(prompt_ids=[1, 2], completion_ids=[3, 4], logprobs=[-0.5, -0.1])
    >>> call.ids
    [1, 2, 3, 4]
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    """Log-probability of each completion token under the distribution that it was drawn from."""
    finish_reason: str = "stop"
    agent: str = "agent"
    """Whose call it is, in an episode of several agents."""
    text: str = ""
    """The completion as text, special tokens included."""
    messages: tuple[Message, ...] = ()
    """The request's messages."""
    tools: tuple[dict[str, Any], ...] = ()
    """The request's tools, in OpenAI's form."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the request gave the chat template besides."""
    reply: Message = field(default_factory=dict)
    """The message that the agent got back."""
    shown_whole: bool = True
    """Not where a stop string, or an agent that takes one tool call at a time, cut the reply."""
    under_grammar: bool = False
    """Drawn from a masked distribution (a JSON schema, a forced tool): recorded, never trained."""
    reward: float | None = None
    """Its own, where the workflow gave it one by ``model.reward``."""
    state: str | None = None
    """What the workflow called the state in which it was made, by ``model.state``."""
    scores: "CallScores | None" = None
    """What the trainer makes of it, where an algorithm wants to know before credit."""

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.completion_ids


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One attempt at a task: its calls in order, and how it ended."""

    task: Task
    index: int
    """Which of the task's G episodes this is."""
    calls: tuple[Call, ...] = ()
    status: Status = "ok"
    error: str | None = None
    """The cause, in one sentence, where the status is ``error`` or ``timeout``, or where the
    workflow raised after a context that was full."""
    reward: Reward | None = None
    """None where the episode could not be scored, and ``failed_reward`` does not say otherwise."""
    parts: dict[str, float] = field(default_factory=dict)
    """The named rewards that the reward is the weighted sum of, where it was given so."""
    success: bool | None = None
    response: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def scored(self) -> bool:
        return self.reward is not None

    @property
    def failed(self) -> bool:
        """Whether it came to no verdict of its own; it may have a reward for that."""
        return self.status in ("error", "timeout") or not self.scored

    @property
    def agents(self) -> tuple[str, ...]:
        """Who made calls, in the order of their first."""
        return tuple(dict.fromkeys(call.agent for call in self.calls))

    def reward_of(self, agent: str) -> float | None:
        """One agent's reward; None where it has none.

        >>> episode = Episode(task={}, index=0, reward={"solver": 1.0})
        >>> episode.reward_of("solver"), episode.reward_of("checker")
        (1.0, None)
        """
        return self.reward.get(agent) if isinstance(self.reward, dict) else self.reward

    @property
    def mean_reward(self) -> float | None:
        """The reward; the mean over the agents where each has its own."""
        if isinstance(self.reward, dict):
            return sum(self.reward.values()) / len(self.reward)
        return self.reward


def weighted_sum(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The reward that named parts make; a part counts 1 where it has no weight.

    >>> weighted_sum({"right": 1.0, "short": 0.5}, {"short": 2.0})
    2.0
    """
    return sum((weights.get(name, 1.0) * part for name, part in parts.items()), 0.0)


@dataclass(frozen=True)
class Group:
    """The G episodes of one task, which are compared with each other."""

    task: Task
    episodes: tuple[Episode, ...]

    @property
    def scored(self) -> tuple[Episode, ...]:
        return tuple(episode for episode in self.episodes if episode.scored)


@dataclass(frozen=True, kw_only=True)
class CallScores:
    """What the trainer makes of a call before the batch's first optimizer step; a number a token.

    Only where an algorithm asks for it: see ``agentrl.algorithms.grpo``.
    """

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    ref_logprobs: tuple[float, ...] | None = None
    """Under the frozen reference, where there is one."""
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What a policy of one's own computes besides."""


@dataclass(frozen=True)
class Sample:
    """A call to train on, and its credit."""

    call: Call
    advantage: float | Sequence[float]
    """Of every token that was sampled in the call, or one for each."""
    group: int | None = None
    """The number of its group in the batch; None: not told, and found by the call."""
    episode: int | None = None
    """The number of its episode in the group."""

    @property
    def has_gradient(self) -> bool:
        """Whether an advantage is not 0."""
        if isinstance(self.advantage, Sequence):
            return any(advantage != 0 for advantage in self.advantage)
        return self.advantage != 0


@dataclass(frozen=True)
class Chunk:
    """Groups of a step that are trained on together: all of them; or, where training begins before
    the last episode ends, those that are complete."""

    groups: Sequence[Group]
    is_first: bool = True
    is_last: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether these are all groups of the step."""
        return self.is_first and self.is_last


class CannotStart(Exception):
    """Something that was typed, or that it names, cannot be used; in a sentence."""


class StepRefused(RuntimeError):
    """A step that would be of no use is not made, and ends the run; in a sentence."""


class TooManyFailed(StepRefused):
    """So many episodes of a batch failed that training on the others would be of no use."""


class NotFinite(StepRefused):
    """A gradient, a loss or a log-probability is NaN or infinite; in a sentence."""


class NothingToTrain(StepRefused):
    """No token that a batch sampled can be trained."""


class StoppedEarly(Exception):
    """A run has come to its end before its last step: it gets no better."""


class EngineStopped(RuntimeError):
    """The engine's thread has ended: nothing can be drawn any more."""
