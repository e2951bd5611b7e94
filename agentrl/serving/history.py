"""History of an agent's conversations, and which of them a request goes on from.

Conversations are compared by value: a client may give calls other ids, drop the reasoning, and
space its JSON as it likes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from agentrl.serving.protocol import Request
from agentrl.types import Call, Message, message_key


@dataclass(frozen=True, eq=False)
class Prompt:
    """A request as the chat template renders it, in tokens."""

    ids: list[int]
    text: str
    """As the template renders it; the ids say the same, the model's own messages as sampled."""
    messages: list[Message]
    """As rendered: the model's own as they were recorded."""
    key: int | None
    """Of the conversation by value: tools and template arguments, then every message. None: the
    prompt was no conversation."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """A prompt and the call that was made of it: where a conversation can continue."""

    prompt: Prompt
    call: Call


History = dict[int | None, list[Prefix]]
"""The prefixes of one agent in one episode, by the key of the conversation up to each reply."""


def add_prefix(prefix: Prefix, history: History) -> None:
    """Let later requests continue from the end of a call that its agent saw whole."""
    history.setdefault(_key_after(prefix), []).append(prefix)


def remove_prefix(prefix: Prefix, history: History) -> None:
    history[_key_after(prefix)].remove(prefix)


def keys_of(request: Request, messages: list[Message]) -> list[int]:
    """One key per message, of the conversation up to it."""
    tools, _, _, arguments = request.format_key
    start = hash((tools, arguments))
    return list(accumulate(messages, _key, initial=start))[1:] or [start]


def _key_after(prefix: Prefix) -> int | None:
    before = prefix.prompt.key
    return None if before is None else _key(before, prefix.call.reply)


def _key(before: int, message: Message) -> int:
    return hash((before, message_key(message)))


def _reasoning_agrees(messages: list[Message], prefix: Prefix) -> bool:
    """Whether each reply came back with its reasoning, or with none: many clients drop it."""
    recorded = (*prefix.prompt.messages, prefix.call.reply)
    return all(
        sent.get("reasoning_content") in (None, "", said.get("reasoning_content"))
        for sent, said in zip(messages, recorded)
    )


def extended_by(
    messages: Sequence[Message], keys: list[int], history: History
) -> Iterator[tuple[int, Prefix]]:
    """The earlier calls that a request extends, and which of its messages was their reply: the
    longest first; of equals, the one whose calls have the ids that were sent, then the latest."""
    for i in range(len(messages) - 1, -1, -1):
        found = history.get(keys[i], ())
        for prefix in sorted(reversed(found), key=partial(_has_other_ids, messages[i])):
            if _reasoning_agrees(messages, prefix):
                yield i, prefix


def _has_other_ids(sent: Message, prefix: Prefix) -> bool:
    """Of calls that say the same, the ids can tell which one it was."""
    sent_calls, calls = (m.get("tool_calls") or () for m in (sent, prefix.call.reply))
    return [call.get("id") for call in sent_calls] != [call["id"] for call in calls]
