"""An episode as a person reads it: who said what, what it was worth, how its calls merged."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl.types import Call, Episode, Message
from agentrl.watch.forks import Decode, merge

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
STYLES = {"system": "dim", "user": "green", "assistant": "cyan", "tool": "yellow"}
"""Of the roles."""
EXCERPT_TOKENS = 24
"""How much of both branches a fork quotes."""


def visible(text: str) -> str:
    r"""The text without what a terminal would obey: a model may write anything.

    >>> print(visible("a\x1b[2Jb\n"), end="")
    a\x1b[2Jb
    """
    return CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def print_transcript(console: Console, episode: Episode) -> None:
    """What the agent told the model and what it answered, turn by turn."""
    console.rule(f"task {episode.task['id']}, episode {episode.index}")
    # Each agent has a conversation of its own.
    shown = dict.fromkeys(episode.agents, 0)
    for call in episode.calls:
        if len(shown) > 1:
            console.print(f"[{call.agent}]", style="bold magenta", markup=False)
        # Fewer messages than were shown are another conversation.
        start = shown[call.agent] if len(call.messages) >= shown[call.agent] else 0
        for message in (*call.messages[start:], call.reply):
            print_message(console, message)
        shown[call.agent] = len(call.messages) + 1


def print_message(console: Console, message: Message) -> None:
    """One message: its role, its reasoning, its text and its tool calls."""
    style = STYLES.get(message["role"], "")
    console.print(f"{message['role']}:", style=f"bold {style}", end=" ")
    if reasoning := message.get("reasoning_content"):
        console.print(visible(reasoning.strip()), style="dim italic", markup=False)
    console.print(visible(message.get("content") or ""), style=style, markup=False)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        text = f"  {function['name']}({function['arguments']})"
        console.print(visible(text), style="magenta", markup=False)


def print_verdict(console: Console, episode: Episode) -> None:
    """What came of it, in a line."""
    verdict = f"{episode.status}: {episode.error}" if episode.failed else f"reward {episode.reward}"
    metrics = "".join(f", {name} {value:g}" for name, value in episode.metrics.items())
    console.print(f"{verdict}{metrics}", style="bold", markup=False)


def print_scores(console: Console, episode: Episode) -> None:
    """What came of it, part by part."""
    status = f"{episode.status}: {episode.error}" if episode.error else episode.status
    parts = {
        "status": status,
        "reward": episode.reward,
        "success": episode.success,
        **episode.metrics,
        **{f"metadata {name}": value for name, value in episode.metadata.items()},
        "response": episode.response,
        "seconds": f"{episode.seconds:.2f}",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in parts.items():
        table.add_row(
            Text(name, "bold"), Text(visible(str(value)), "red" if episode.failed else "")
        )
    console.print(table)


def print_merged(console: Console, calls: Sequence[Call], decode: Decode) -> None:
    """How many tokens the calls hold, how many are computed, and where and why they fork.

    decode: token ids to text.
    """
    merged = merge(calls, decode)
    console.print(
        f"{merged.num_calls} calls, {merged.raw_tokens} raw tokens, {merged.unique_tokens} unique, "
        f"{len(merged.forks)} forks",
        style="bold",
    )
    for fork in merged.forks:
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
