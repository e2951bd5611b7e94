"""What was said before in an episode, and which of it a request goes on from.

Conversations are compared by value: a client may give calls other ids, drop the reasoning, and
space its JSON as it likes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

from agentrl.serving.protocol import Turn, to_json
from agentrl.types import Message


@dataclass(frozen=True, eq=False)
class Prompt:
    """A rendered request."""

    ids: list[int]
    text: str
    """As the template renders it; the ids say the same, with the model's own turns as sampled."""
    messages: list[Message]
    """As rendered: the model's own turns as they were recorded."""
    key: int | None
    """Of the conversation by value: tools and template arguments, then every message. None: the
    prompt was no conversation."""


@dataclass(frozen=True, eq=False)
class Context:
    """A prompt with what was sampled for it: where a conversation can continue."""

    prompt: Prompt
    reply: Message
    ids: list[int]
    end: str | None
    """The special token that the model ended its turn with, or None where a length limit did."""
    said: str
    """The completion's text up to there."""


History = dict[int | None, list[Context]]
"""The contexts of one agent in one episode, by the key of the conversation up to each reply."""


def add_prefix(context: Context, past: History) -> None:
    """Let later requests continue from here."""
    past.setdefault(_place(context), []).append(context)


def remove_prefix(context: Context, past: History) -> None:
    past[_place(context)].remove(context)


def keys_of(turn: Turn, messages: list[Message]) -> list[int]:
    """One key per message, of the conversation up to it."""
    tools, _, _, arguments = turn.form
    start = hash((tools, arguments))
    return list(accumulate(messages, _key, initial=start))[1:] or [start]


def _place(context: Context) -> int | None:
    before = context.prompt.key
    return None if before is None else _key(before, context.reply)


def _key(before: int, message: Message) -> int:
    return hash((before, identity(message)))


def identity(message: Message) -> tuple:
    """What makes two messages the same: role, text and calls by value; not ids or formatting.

    >>> a = {"role": "tool", "content": "3", "tool_call_id": "x"}
    >>> identity(a) == identity({"role": "tool", "content": "3", "tool_call_id": "y"})
    True
    """
    calls = tuple(
        (call["function"]["name"], _canonical_arguments(call))
        for call in message.get("tool_calls") or ()
    )
    if message["role"] == "assistant":
        # Clients strip what the model said, and give it names.
        return "assistant", message["content"].strip(), calls
    return message["role"], message["content"], message.get("name"), calls


def _reasoning_agrees(messages: list[Message], context: Context) -> bool:
    """Whether each turn came back with its reasoning, or with none: many clients drop it."""
    recorded = (*context.prompt.messages, context.reply)
    return all(
        sent.get("reasoning_content") in (None, "", said.get("reasoning_content"))
        for sent, said in zip(messages, recorded)
    )


def extended_by(
    messages: Sequence[Message], keys: list[int], past: History
) -> Iterator[tuple[int, Context]]:
    """The past calls that a request extends, and which of its messages was their answer: the
    longest first; of equals, the one whose calls have the ids that were sent, then the latest."""
    for i in range(len(messages) - 1, -1, -1):
        found = past.get(keys[i], ())
        for context in sorted(reversed(found), key=partial(_has_other_ids, messages[i])):
            if _reasoning_agrees(messages, context):
                yield i, context


def _has_other_ids(sent: Message, context: Context) -> bool:
    """Of calls that say the same, the ids can tell which one it was."""
    sent_calls, calls = (m.get("tool_calls") or () for m in (sent, context.reply))
    return [call.get("id") for call in sent_calls] != [call["id"] for call in calls]


def _canonical_arguments(call: dict) -> str:
    arguments = call["function"]["arguments"]
    return _canonical(arguments) if isinstance(arguments, str) else to_json(arguments)


# A conversation's calls come again with each of its requests.
@lru_cache(maxsize=4096)
def parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


@lru_cache(maxsize=4096)
def _canonical(arguments: str) -> str:
    return to_json(parsed(arguments))
