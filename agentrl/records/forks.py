"""How the calls of an episode merge into one tree of tokens, and why it forks where it does.

A call that goes on from another begins with every token of it. It forks where it leaves the tokens
of the calls before it: what follows there is computed anew, and trained as a branch of its own.
Where the ids part is a fact; why is found by comparing what was asked, in this order:

    another agent       the first call of an agent, or one that goes on where another agent did
    sampled again       the very same prompt: for several answers, or another attempt
    changed tools       other tools, or other arguments of the chat template
    new conversation    nothing but system messages in common
    edited history      a message is another one, or is gone
    cut completion      the agent saw less than was drawn, or the turn was cut by its length
    stripped thinking   the template, or the client, leaves earlier reasoning out
    other prompt        plain text or token ids that go on from nothing
    rewritten           none of these: the template writes the same messages otherwise
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.types import Call, Message, message_key
from kernels.tree import build_tree, common_prefix_length

Kind = Literal[
    "another agent",
    "sampled again",
    "changed tools",
    "new conversation",
    "edited history",
    "cut completion",
    "stripped thinking",
    "other prompt",
    "rewritten",
]
Decode = Callable[[list[int]], str]
EXCERPT_CHARACTERS = 40
"""How much of a message its cause quotes."""
COMPARED = 16
"""Of many calls that were left in one place, so many of the last are compared by their messages."""
FRAME_TOKENS = 32
"""More than a template writes between a turn's beginning and its reasoning."""


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A call that leaves the tokens of those before it."""

    call: int
    """Its number in the episode, from 0."""
    parent: int
    """The call whose tokens it leaves."""
    position: int
    """How many tokens both begin with."""
    kind: Kind
    why: str
    """A sentence."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What the calls of an episode come to in one tree."""

    num_calls: int
    raw_tokens: int
    """Of all calls, each with its whole prompt."""
    unique_tokens: int
    """Of the tree: what is computed."""
    forks: tuple[Fork, ...]


def merge(calls: Sequence[Call], decode: Decode) -> Merged:
    """Merge the calls of one episode; ``decode``: token ids to text."""
    tree = build_tree([call.ids for call in calls])
    return Merged(
        num_calls=len(calls),
        raw_tokens=sum(map(len, tree.index)),
        unique_tokens=len(tree),
        forks=tuple(find_forks(calls, tree.index, decode)),
    )


def find_forks(
    calls: Sequence[Call], paths: Sequence[np.ndarray], decode: Decode
) -> Iterator[Fork]:
    """Yield the forks of one episode's calls, in order.

    paths: where each call's tokens are in a tree (``TokenTree.index``), which may hold others, too.
    """
    size = max((int(path[-1]) + 1 for path in paths), default=0)
    reached, left_behind = np.zeros(size, bool), np.zeros(size, bool)
    for i, path in enumerate(paths):
        position = int(reached[path].sum())
        # Where an earlier call goes on from the token before, this one goes another way.
        parts = left_behind[path[position - 1]] if position else i > 0
        if parts and position < len(path):
            yield _fork(calls, paths, i, position, decode)
        reached[path] = True
        left_behind[path[:-1]] = True


def _fork(
    calls: Sequence[Call], paths: Sequence[np.ndarray], i: int, position: int, decode: Decode
) -> Fork:
    def is_left(j: int) -> bool:
        if len(paths[j]) <= position:
            return False
        # Who has the last common token has all before it.
        return not position or bool(paths[j][position - 1] == paths[i][position - 1])

    own = [j for j in range(i) if calls[j].agent == calls[i].agent]
    left_own = [j for j in own if is_left(j)]
    parent = _likeliest(calls, i, left_own or [j for j in range(i) if is_left(j)])
    if left_own:
        left = [calls[j] for j in left_own]
        kind, why = _explain(calls[i], calls[parent], left, decode)
    else:
        kind, why = _explain_beside(calls, paths, i, own, calls[parent].agent, decode)
    return Fork(call=i, parent=parent, position=position, kind=kind, why=why)


def _explain_beside(
    calls: Sequence[Call],
    paths: Sequence[np.ndarray],
    i: int,
    own: Sequence[int],
    beside: str,
    decode: Decode,
) -> tuple[Kind, str]:
    """Why a call leaves another agent's tokens: its own conversation, ``own``, tells."""
    if not own:
        return "another agent", f"the first call of {calls[i].agent}"
    shared = {j: common_prefix_length(paths[i], paths[j]) for j in own}
    nearest = max(own, key=lambda j: (shared[j], j))
    if shared[nearest] == len(paths[nearest]):
        return "another agent", f"{beside} has gone on from there, too"
    return _explain(calls[i], calls[nearest], [calls[nearest]], decode)


def _likeliest(calls: Sequence[Call], i: int, others: Sequence[int]) -> int:
    """From which of the calls that it leaves in one place it was to go on."""

    def likeness(j: int) -> tuple:
        return _same_prompt(calls[i], calls[j]), _num_common(calls[i], calls[j]), j

    return max(others[-COMPARED:], key=likeness)


def _same_prompt(call: Call, other: Call) -> bool:
    return call.prompt_ids == other.prompt_ids


def _num_common(call: Call, other: Call) -> int:
    """How many messages both conversations begin with, the other's reply counted in."""
    said = (*other.messages, other.reply)
    for i, (mine, theirs) in enumerate(zip(call.messages, said)):
        if message_key(mine) != message_key(theirs):
            return i
    return min(len(call.messages), len(said))


def _explain(call: Call, other: Call, left: Sequence[Call], decode: Decode) -> tuple[Kind, str]:
    """other: the agent's earlier call that it is nearest to; left: all that it leaves there."""
    if _same_prompt(call, other):
        return "sampled again", "the same prompt was answered once more"
    if not call.messages or not other.messages:
        return "other prompt", "a prompt that does not begin with an earlier one and its answer"
    if call.tools != other.tools:
        return "changed tools", _changed_tools(call, other)
    if call.template_arguments != other.template_arguments:
        return "changed tools", "the arguments of the chat template are others"
    said = (*other.messages, other.reply)
    common = _num_common(call, other)
    if all(message["role"] == "system" for message in call.messages[:common]):
        return "new conversation", "it has no message in common with an earlier one" + (
            ", but for the system's" if common else ""
        )
    if common < len(said):
        return "edited history", _edited(call, said, common)
    if not other.shown_whole:
        return "cut completion", "the agent saw less than was drawn, and goes on from that"
    if cause := _reasoning_lost(call, left, decode):
        return cause
    if other.finish_reason == "length":
        return "cut completion", "the turn before was cut by its length"
    return "rewritten", "the chat template writes the same messages otherwise this time"


def _changed_tools(call: Call, other: Call) -> str:
    now, before = ([tool["function"]["name"] for tool in one.tools] for one in (call, other))
    added = [name for name in now if name not in before]
    removed = [name for name in before if name not in now]
    parts = [f"{', '.join(added)} added"] * bool(added)
    parts += [f"{', '.join(removed)} removed"] * bool(removed)
    if not parts:
        parts = ["another order" if sorted(now) == now != before else "described otherwise"]
    return f"the tools are others: {'; '.join(parts)}"


def _edited(call: Call, said: Sequence[Message], i: int) -> str:
    was, number = said[i], i + 1
    if i == len(call.messages):
        return f"what came after message {i} was left out, from {_excerpt(was)} on"
    now = call.messages[i]
    if now["role"] != was["role"]:
        return f"message {number} was left out: {_excerpt(was)}"
    return f"message {number} is another: {_excerpt(was)} became {_excerpt(now)}"


def _excerpt(message: Message) -> str:
    """
    >>> _excerpt({"role": "user", "content": "Hi"})
    "user 'Hi'"
    """
    text = message.get("content") or ""
    for call in message.get("tool_calls") or ():
        text += f" {call['function']['name']}({call['function']['arguments']})"
    short = text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}..."
    return f"{message['role']} {short.strip()!r}"


def _reasoning_lost(call: Call, left: Sequence[Call], decode: Decode) -> tuple[Kind, str] | None:
    """Whether reasoning of a call that it leaves is not in this prompt, and by whose doing."""
    for other in left:
        reasoning = (other.reply.get("reasoning_content") or "").strip()
        place = len(other.messages)
        if not reasoning or _num_common(call, other) <= place:
            continue
        sent = (call.messages[place].get("reasoning_content") or "").strip()
        if sent and sent != reasoning:
            return "edited history", f"the reasoning of message {place + 1} is another"
        # Both begin alike: had it been kept, it would stand where it was sampled.
        start = max(len(other.prompt_ids) - FRAME_TOKENS, 0)
        if reasoning not in decode(call.prompt_ids[start : len(other.ids) + FRAME_TOKENS]):
            return (
                "stripped thinking",
                f"the chat template leaves out the reasoning of message {place + 1}",
            )
    return None
