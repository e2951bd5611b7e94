"""Transcript of an episode: who said what, what it was worth, how its calls merged."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.traceback import Traceback

from agentrl.printable import printable
from agentrl.records.forks import merge
from agentrl.types import Call, Episode, Message, message_key

STYLES = {
    "prompt": "green",
    "system": "dim",
    "user": "green",
    "assistant": "cyan",
    "tool": "yellow",
}
"""Of the roles, and of a plain prompt."""
Decode = Callable[[list[int]], str]
EXCERPT_TOKENS = 24
"""How much of both branches a fork quotes."""


def print_episode(
    console: Console, episode: Episode, decode: Decode, tracebacks: Sequence[Traceback] = ()
) -> None:
    """What was said, what went wrong, what came of it, and how its calls merged.

    decode: token ids to text.
    """
    print_transcript(console, episode, decode)
    for traceback in tracebacks:
        console.print(traceback)
    print_scores(console, episode)
    print_merged(console, episode.calls, decode)


def print_transcript(console: Console, episode: Episode, decode: Decode) -> None:
    """What the agent told the model and what it answered, turn by turn."""
    console.rule(Text(printable(f"task {episode.task['id']}, episode {episode.index}")))
    # Each agent has a conversation of its own: what it has shown of that.
    shown: dict[str, tuple[Message, ...]] = dict.fromkeys(episode.agents, ())
    for call in episode.calls:
        if len(shown) > 1:
            console.print(printable(f"[{call.agent}]"), style="bold magenta", markup=False)
        if not call.messages and call.prompt_ids:
            print_message(console, {"role": "prompt", "content": decode(call.prompt_ids)})
        for message in (*_new(call.messages, shown[call.agent]), call.reply):
            print_message(console, message)
        shown[call.agent] = (*call.messages, call.reply)


def _new(messages: Sequence[Message], shown: Sequence[Message]) -> Sequence[Message]:
    """What goes on from what was shown; all of it, where it is another conversation."""
    begins = [message_key(m) for m in messages[: len(shown)]] == [message_key(m) for m in shown]
    return messages[len(shown) :] if begins else messages


def print_message(console: Console, message: Message) -> None:
    """One message: its role, its reasoning, its text and its tool calls."""
    style = STYLES.get(message["role"], "")
    console.print(f"{message['role']}:", style=f"bold {style}", end=" ")
    if reasoning := message.get("reasoning_content"):
        console.print(printable(reasoning.strip()), style="dim italic", markup=False)
    console.print(printable(message.get("content") or ""), style=style, markup=False)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        text = f"  {function['name']}({function['arguments']})"
        console.print(printable(text), style="magenta", markup=False)


def print_scores(console: Console, episode: Episode) -> None:
    """What came of it, part by part."""
    parts = {
        "status": f"{episode.status}: {episode.error}" if episode.error else episode.status,
        "reward": episode.reward,
        "success": episode.success,
        **episode.metrics,
        **{f"metadata {name}": value for name, value in episode.metadata.items()},
        "response": episode.response,
        "seconds": f"{episode.seconds:.2f}",
    }
    table, style = Table.grid(padding=(0, 2)), "red" if episode.failed else ""
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in parts.items():
        if value is not None:
            table.add_row(Text(name, "bold"), Text(printable(str(value)), style))
    console.print(table)


def print_merged(console: Console, calls: Sequence[Call], decode: Decode) -> None:
    """How many tokens the calls hold, how many are computed, and where and why they fork.

    decode: token ids to text.
    """
    tree, forks = merge(calls)
    num_raw = sum(map(len, tree.index))
    console.print(
        f"{len(calls)} calls, {num_raw} raw tokens, {len(tree)} unique, {len(forks)} forks",
        style="bold",
    )
    for fork in forks:
        console.print(
            f"fork at token {fork.position}: call {fork.call} leaves call {fork.parent} "
            f"({fork.kind}): {fork.why}",
            style="red",
            markup=False,
        )
        excerpt = slice(fork.position, fork.position + EXCERPT_TOKENS)
        was, now = (decode(calls[i].ids[excerpt]) for i in (fork.parent, fork.call))
        console.print(f"  was {was!r}", style="dim", markup=False)
        console.print(f"  now {now!r}", markup=False)
