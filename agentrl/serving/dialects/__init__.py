"""API dialects that agents speak: two translations each, to ``Request`` and from ``Response``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentrl.serving.dialects.base import Body
from agentrl.serving.protocol import Request, RequestRefused, Response


@dataclass(frozen=True)
class Dialect:
    """An API's route: what it takes, and how a response looks in its words."""

    path: str
    body: type[Body]
    request: Callable[[Any, dict[str, Request]], Request]
    """The second: the episode's earlier conversations, by response id."""
    whole: Callable[[Response, Any, Request], dict]
    events: Callable[[Response, Any, Request], Iterator[tuple[str | None, Any]]]
    """The same as server-sent events: name and data."""
    error: Callable[[RequestRefused], dict]
    conversation: Callable[[Response, Any, Request], dict[str, Request]] = lambda *_: {}
    """What a later request may go on from: this one, the reply among its messages."""
    counts: bool = False
    """Whether nothing is drawn, and the prompt's tokens are counted."""


def text_of(content: Any) -> str:
    """The text of a message's content, given as a string, as parts or not at all.

    >>> text_of([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    'ab'
    """
    return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def openai_error(refusal: RequestRefused) -> dict:
    return {
        "error": {
            "message": refusal.message,
            "type": "server_error" if refusal.status >= 500 else "invalid_request_error",
            "param": refusal.parameter,
            "code": refusal.code,
        }
    }
