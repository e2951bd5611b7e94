"""Episodes of the ready agent, whose model says what the test wants."""

from typing import Any

from agentrl.agents.episode import run_episode
from agentrl.environments.agent import play
from agentrl.types import Episode
from tests.support.families import QWEN25
from tests.support.spy import Scripted


def played(task: dict[str, Any], *said: str, seconds: float = 20.0, judge: Any = None) -> Episode:
    """An episode in which these things are said; every token that was drawn is in its calls."""
    one = Scripted(QWEN25)
    for text in said:
        one.says(text)
    how = {"workflow": play, "judge": judge, "model": one.client, "seconds": seconds}
    episode = run_episode({"id": "t", **task}, 0, auxiliary_models={}, **how)
    assert [(c.prompt_ids, c.completion_ids) for c in episode.calls] == [
        (prompt, drawn) for prompt, drawn, _ in one.engine.log
    ]
    return episode


def call(name: str, arguments: str) -> str:
    """A tool call as that model writes it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def shown(episode: Episode) -> list[tuple[str, str]]:
    """Role and text of what the last call was shown, but for what the model said."""
    messages = episode.calls[-1].messages
    return [(m["role"], m["content"]) for m in messages if m["role"] in ("user", "tool")]
