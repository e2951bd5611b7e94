"""Request and Response: what every dialect comes down to."""

import json
from collections.abc import Mapping
from contextlib import suppress
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


def invalid(error: ValidationError, body: Any) -> RequestRefused:
    """What pydantic found wrong in a body, in a sentence.

    Of a union's alternatives the one that got farthest was meant: an image among the parts of a
    content is told as that, and not as a content that is no text.
    """
    found = [(_path(e, body), e) for e in error.errors(include_url=False, include_context=False)]
    path = max((path for path, _ in found), key=len)
    here = [e for other, e in found if other == path]
    where, given = ".".join(path), here[0]["input"]
    if here[0]["type"] == "extra_forbidden":
        return RequestRefused(400, "unsupported_parameter", f"{where} is not supported here", where)
    message = ", or: ".join(dict.fromkeys(e["msg"] for e in here))
    if isinstance(given, str | float) and len(str(given)) < 100 and where:
        message = f"{message}, not {given!r}"
    return RequestRefused(400, "invalid_request", f"{where}: {message}".lstrip(": "), where or None)


def _path(error: Any, body: Any) -> list[str]:
    """Where in the body, without the names that pydantic has for the alternatives of a union."""
    path = []
    for part in error["loc"]:
        with suppress(LookupError, TypeError):
            path, body = [*path, str(part)], body[part]
    return [*path, str(error["loc"][-1])] if error["type"] == "missing" else path


def valid_json(text: str) -> str:
    """JSON as every reader takes it: U+FFFD for each half of a UTF-16 pair, which is no text.

    Raises ValueError where it is none, as with NaN and with what overflows to infinity.
    """
    written = json.dumps(json.loads(text), ensure_ascii=False, allow_nan=False)
    whole = without_halves(written)
    return text if whole == written else whole


def without_halves(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
    def prompt_ids(self) -> list[int]:
        return self.choices[0].call.prompt_ids

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def completion_tokens(self) -> int:
        """Of all choices."""
        return sum(len(choice.call.completion_ids) for choice in self.choices)
