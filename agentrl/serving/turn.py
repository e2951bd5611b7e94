"""What every dialect comes down to: a turn that is asked for, and the answer that was drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentrl.serving.engine import Completion
from agentrl.types import Message


class RequestRefused(Exception):
    """A request that cannot be answered; it becomes an error in the dialect's own form."""

    def __init__(self, status: int, code: str, message: str, parameter: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.parameter = status, code, message, parameter


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One request, whatever API it came through."""

    model: str = "policy"
    messages: tuple[Message, ...] = ()
    """The conversation in the form of OpenAI's chat completions."""
    prompt: str | tuple[int, ...] | None = None
    """Instead of messages: plain text, or token ids."""
    tools: tuple[dict, ...] = ()
    """In the form of chat completions, too."""
    tool_choice: str | dict = "auto"
    parallel_tool_calls: bool = True
    response_format: dict | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """How many alternatives to report for each token; None: no log-probabilities at all."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What the agent would have drawn with: temperature, top_p, seed, ..."""


@dataclass(frozen=True)
class Token:
    """A token as an agent sees it that asks for log-probabilities."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    """The likeliest alternatives."""


@dataclass(frozen=True)
class Choice:
    """One completion, and the message that the agent gets for it."""

    completion: Completion
    message: Message
    """role, content, and where there are any: reasoning_content, tool_calls."""
    tokens: tuple[Token, ...] = ()
    """Where log-probabilities were asked for."""

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.message.get("tool_calls") else self.completion.finish_reason


@dataclass(frozen=True)
class Answer:
    """What was drawn for a turn."""

    id: str
    """Unique within its episode."""
    created: int
    """Seconds since 1970."""
    prompt_tokens: int
    choices: tuple[Choice, ...]

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.completion.ids) for choice in self.choices)
