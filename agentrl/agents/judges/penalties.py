r"""Penalties: habits of a model that an episode's calls show, each from 0 to 1.

``no_print`` measures one, ``no_print(-0.05)`` also lets it cost so much, and
``impatient(-0.1, answer="Answer:")`` is one with an argument.
"""

import re
import unicodedata
from collections import Counter

from agentrl.agents.judges.parts import Penalty
from agentrl.types import Call, Episode, parsed_arguments

_CALLS = re.compile(
    r"</?tool_call|<function=|<\|python_tag|\[TOOL_CALLS|<\uff5ctool"
    r'|\{\s*"name"\s*:\s*"[^"]*"\s*,\s*"(?:arguments|parameters)"'
)
"""How families of models begin a tool call."""
_SCRIPT = re.compile("CJK|HIRAGANA|KATAKANA|HANGUL|CYRILLIC|ARABIC|HEBREW|THAI|DEVANAGARI|BENGALI")
"""As Unicode's names begin; not Latin and Greek, which formulas and names are in."""


@Penalty
def malformed(episode: Episode) -> bool:
    """A tool call that cannot be read, is of no tool that there is, or lacks what one requires."""
    return any(call.tools and _is_malformed(call) for call in episode.calls)


def _is_malformed(call: Call) -> bool:
    tools = [tool["function"] for tool in call.tools]
    required = {tool["name"]: (tool.get("parameters") or {}).get("required", ()) for tool in tools}
    # Calls that cannot be read stand in the text.
    return bool(_CALLS.search(_content(call))) or any(
        f["name"] not in required or {*required[f["name"]]} - {*parsed_arguments(f["arguments"])}
        for f in _functions(call)
    )


@Penalty
def no_print(episode: Episode, tool: str = "python") -> bool:
    """Code that prints nothing, from which its author learns nothing."""
    functions = (function for call in episode.calls for function in _functions(call))
    return any(f["name"] == tool and "print" not in f["arguments"] for f in functions)


@Penalty
def impatient(episode: Episode, answer: str = r"\boxed") -> bool:
    """An answer, known by how it begins, before any tool has replied."""
    return any(
        answer in call.text and not any(message["role"] == "tool" for message in call.messages)
        for call in episode.calls
    )


@Penalty
def unclosed(episode: Episode) -> bool:
    """Thinking that does not end, or after which nothing is said or called."""
    return any(map(_is_unclosed, episode.calls))


def _is_unclosed(call: Call) -> bool:
    said = _content(call).strip()
    only_thought = call.reply.get("reasoning_content") and not (said or _functions(call))
    # Where no parser is named for it, thinking is text.
    is_open = "<think>" in said.rpartition("</think>")[2] or said.endswith("</think>")
    return bool(only_thought) or is_open


@Penalty
def mixed(episode: Episode) -> float:
    """Share of the letters, thought or said, in a script in which nothing is that was given.

    A question in English that is thought about in Chinese is mixed; the reverse is not.
    """
    messages = (m for call in episode.calls for m in call.messages if m["role"] != "assistant")
    given = {str(message.get("content")) for message in messages}
    known = {None, *map(_script, set().union(*given))}
    said = (call.reply.get("reasoning_content", "") + _content(call) for call in episode.calls)
    letters = {letter: n for letter, n in Counter("".join(said)).items() if letter.isalpha()}
    foreign = sum(n for letter, n in letters.items() if _script(letter) not in known)
    return foreign / max(1, sum(letters.values()))


def _script(letter: str) -> str | None:
    found = _SCRIPT.match(unicodedata.name(letter, ""))
    return found and found[0]


@Penalty
def repetitive(episode: Episode, window: int = 20) -> float:
    """Share of the runs of so many tokens that the same call has drawn before."""
    drawn = [call.completion_ids for call in episode.calls]
    runs = sum(max(0, len(ids) - window + 1) for ids in drawn)
    fresh = sum(len({*zip(*(ids[i:] for i in range(window)), strict=False)}) for ids in drawn)
    return 1 - fresh / runs if runs else 0.0


@Penalty
def overlong(episode: Episode, max_tokens: int, buffer: float = 0.2) -> float:
    """How far the longest call is into the last share of ``max_tokens`` (DAPO, eq. 13)."""
    longest = max((len(call.completion_ids) for call in episode.calls), default=0)
    return max(0.0, min(1.0, (longest / max_tokens - 1 + buffer) / buffer))


def _functions(call: Call) -> list[dict[str, str]]:
    return [one["function"] for one in call.reply.get("tool_calls") or ()]


def _content(call: Call) -> str:
    return call.reply.get("content") or ""
