"""How the calls of an episode merge into one tree of tokens, and why it forks where it does.

A call that goes on from another begins with every token of it. It forks where it leaves the tokens
of the calls before it: what follows there is computed anew, and trained as a branch of its own.
Where the ids part is a fact; why is found by comparing what was asked, in this order:

    another agent       it leaves no tokens but another agent's
    sampled again       the very same prompt: for several answers, or another attempt
    changed tools       other tools, or other arguments of the chat template
    new conversation    nothing but system messages in common
    edited history      a message is another one, or is gone
    cut completion      the agent saw less than was drawn, or the turn was cut by its length
    stripped thinking   nothing else is another, and there was reasoning, which templates leave out
    other prompt        plain text or token ids that go on from nothing
    rewritten           none of these: the template writes the same messages otherwise
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.types import Call, Message, message_key
from kernels.tree import TokenTree, build_tree

COMPARED = 16
"""Of many calls that were left in one place, so many of the last are compared by their messages."""


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A call that leaves the tokens of those before it."""

    call: int
    """Its number in the episode, from 0."""
    parent: int
    """The call whose tokens it leaves."""
    position: int
    """How many tokens both begin with."""
    kind: str
    """One of those above."""
    why: str
    """A sentence."""


def merge(calls: Sequence[Call]) -> tuple[TokenTree, list[Fork]]:
    """The tree of one episode's calls, and where it forks."""
    tree = build_tree([call.ids for call in calls])
    return tree, list(find_forks(calls, tree.index))


def find_forks(calls: Sequence[Call], paths: Sequence[np.ndarray]) -> Iterator[Fork]:
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
            yield _fork(calls, paths, i, position)
        reached[path] = True
        left_behind[path[:-1]] = True


def _fork(calls: Sequence[Call], paths: Sequence[np.ndarray], i: int, position: int) -> Fork:
    # Who has the last common token has all before it.
    last = slice(max(position - 1, 0), position)
    left = [
        j
        for j, path in enumerate(paths[:i])
        if len(path) > position and np.array_equal(path[last], paths[i][last])
    ]
    own = [j for j in left if calls[j].agent == calls[i].agent]
    parent = _likeliest(calls, i, own or left)
    if own:
        kind, why = _explain(calls[i], calls[parent], [calls[j] for j in own])
    else:
        kind, why = "another agent", f"{calls[parent].agent} goes another way from there"
    return Fork(call=i, parent=parent, position=position, kind=kind, why=why)


def _likeliest(calls: Sequence[Call], i: int, others: Sequence[int]) -> int:
    """From which of the calls that it leaves in one place it was to go on."""

    def likeness(j: int) -> tuple:
        is_same = calls[i].prompt_ids == calls[j].prompt_ids
        return is_same, _num_common(calls[i], calls[j]), j

    return max(others[-COMPARED:], key=likeness)


def _num_common(call: Call, other: Call) -> int:
    """How many messages both conversations begin with, the other's reply counted in."""
    said = (*other.messages, other.reply)
    for i, (mine, theirs) in enumerate(zip(call.messages, said)):
        if message_key(mine) != message_key(theirs):
            return i
    return min(len(call.messages), len(said))


def _explain(call: Call, other: Call, left: Sequence[Call]) -> tuple[str, str]:
    """other: the agent's earlier call that it is nearest to; left: all that it leaves there."""
    if call.prompt_ids == other.prompt_ids:
        return "sampled again", "the same prompt was answered once more"
    if not call.messages or not other.messages:
        return "other prompt", "a prompt that does not begin with an earlier one and its answer"
    if call.tools != other.tools:
        return "changed tools", "the tools are others, or described otherwise"
    if call.template_arguments != other.template_arguments:
        return "changed tools", "the arguments of the chat template are others"
    said = (*other.messages, other.reply)
    common = _num_common(call, other)
    if all(message["role"] == "system" for message in call.messages[:common]):
        return "new conversation", "it has at most the system's message in common with another"
    if common < len(said):
        return "edited history", _edited(call, said, common)
    if not other.shown_whole:
        return "cut completion", "the agent saw less than was drawn, and goes on from that"
    if other.finish_reason == "length":
        return "cut completion", "the turn before was cut by its length"
    rewritten = "rewritten", "the chat template writes the same messages otherwise"
    return _reasoning_lost(call, left) or rewritten


def _edited(call: Call, said: Sequence[Message], i: int) -> str:
    if i == len(call.messages):
        return f"what came after message {i} was left out"
    is_gone = call.messages[i]["role"] != said[i]["role"]
    return f"message {i + 1} {'was left out' if is_gone else 'is another'}"


def _reasoning_lost(call: Call, left: Sequence[Call]) -> tuple[str, str] | None:
    """What became of the reasoning of the first call that it leaves and that had some."""
    for other in left:
        reasoning = (other.reply.get("reasoning_content") or "").strip()
        place = len(other.messages)
        if reasoning and _num_common(call, other) > place:
            sent = (call.messages[place].get("reasoning_content") or "").strip()
            if sent not in ("", reasoning):
                return "edited history", f"the reasoning of message {place + 1} is another"
            return "stripped thinking", f"the reasoning of message {place + 1} is left out"
    return None
