"""The APIs that agents speak. Each is two translations around one ``Turn`` and its ``Answer``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentrl.serving.dialects.base import Body
from agentrl.serving.protocol import Answer, RequestRefused, Turn
from agentrl.types import Message


@dataclass(frozen=True)
class Dialect:
    """One route: what it takes, and how an answer looks in its words."""

    path: str
    body: type[Body]
    turn: Callable[[Any, dict[str, list[Message]]], Turn]
    """(body, earlier conversations by answer id) -> Turn."""
    whole: Callable[[Answer, Any, Turn], dict]
    events: Callable[[Answer, Any, Turn], Iterator[tuple[str | None, Any]]]
    """The same as server-sent events: name and data."""
    error: Callable[[RequestRefused], dict]
    conversation: Callable[[Answer, Any, Turn], tuple[str, list[Message]]] | None = None
    """Under which id, and as which messages, later requests can refer to this turn."""


def text_of(content: Any) -> str:
    """The text of a message's content, given as a string, as parts or not at all.

    >>> text_of([{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}])
    'ab'
    """
    if isinstance(content, list):
        return "".join(part.get("text") or part.get("refusal") or "" for part in content)
    return content or ""


def openai_error(refusal: RequestRefused) -> dict:
    return {
        "error": {
            "message": refusal.message,
            "type": "server_error" if refusal.status >= 500 else "invalid_request_error",
            "param": refusal.parameter,
            "code": refusal.code,
        }
    }
