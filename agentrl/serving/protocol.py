"""Request and Response: what every dialect comes down to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from agentrl.types import Call, Message


class RequestRefused(Exception):
    """A request that cannot be answered; it becomes an error in the dialect's own form."""

    def __init__(self, status: int, code: str, message: str, parameter: str | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.parameter = status, code, message, parameter


def invalid(error: ValidationError) -> RequestRefused:
    """The first thing that pydantic found wrong, in a sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return RequestRefused(400, "unsupported_parameter", f"{where} is not supported here", where)
    message = f"{where}: {first['msg']}" if where else first["msg"]
    return RequestRefused(400, "invalid_request", message, where or None)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of an agent's, whatever API it came through."""

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
    """What the agent would have sampled with: temperature, top_p, seed, ..."""

    @cached_property
    def format_key(self) -> tuple[str, str, str, str]:
        """What decides how a response must look, as JSON: tools, choice, format, arguments."""
        # In the order in which they were given: templates and grammars keep it.
        return (
            json.dumps(self.tools) if self.tools else "[]",
            json.dumps(self.tool_choice if self.tools else "none"),
            json.dumps(self.response_format) if self.response_format else "null",
            json.dumps(dict(self.template_arguments)) if self.template_arguments else "{}",
        )


@dataclass(frozen=True)
class Token:
    """A token as an agent sees it that asks for log-probabilities."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    """The likeliest alternatives."""


@dataclass(frozen=True)
class Choice:
    """One completion: what is recorded of it, and what else its agent may want to see."""

    call: Call
    stop: str | None = None
    """The stop string that ended it."""
    tokens: tuple[Token, ...] = ()
    """Where log-probabilities were asked for."""

    @property
    def message(self) -> Message:
        """role, content, and where there are any: reasoning_content, tool_calls."""
        return self.call.reply

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.message.get("tool_calls") else self.call.finish_reason


@dataclass(frozen=True)
class Response:
    """What was sampled for a request."""

    id: str
    """Unique within its episode."""
    created: int
    """Seconds since 1970."""
    choices: tuple[Choice, ...]

    @property
    def prompt_tokens(self) -> int:
        return len(self.choices[0].call.prompt_ids)

    @property
    def completion_tokens(self) -> int:
        """Of all choices."""
        return sum(len(choice.call.completion_ids) for choice in self.choices)
