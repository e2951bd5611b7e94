"""Episodes of the ready agent, whose model says what the test wants."""

from collections.abc import Sequence
from typing import Any

from agentrl.agents.episode import run_episode
from agentrl.environments.agent import play
from agentrl.environments.player import Player
from agentrl.types import Episode
from tests.support.families import QWEN25, write
from tests.support.spy import Scripted


def played(
    task: dict[str, Any],
    *said: str | dict[str, Any],
    seconds: float = 20.0,
    judge: Any = None,
    auxiliary_models: dict[str, Any] | None = None,
) -> Episode:
    """An episode in which these things are said, texts or calls' names and arguments; every token
    that was drawn is in its calls."""
    one = Scripted(QWEN25)
    for action in said:
        one.says(action if isinstance(action, str) else write(QWEN25, None, "", [action]))
    how = {"workflow": play, "judge": judge, "model": one.client, "seconds": seconds}
    episode = run_episode({"id": "t", **task}, 0, auxiliary_models=auxiliary_models or {}, **how)
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


class Saying(Player):
    """A player that says these things one after another, and then the first that is offered."""

    def __init__(self, said: Sequence[str | dict[str, Any]] = ()):
        super().__init__()
        self._left = [*said]

    async def say(self, seen) -> dict[str, Any]:
        action = self._left.pop(0) if self._left else [*seen.actions, ""][0]
        if isinstance(action, str):
            return {"role": "assistant", "content": action}
        call = {"id": f"call{self.turns:05}", "type": "function", "function": action}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
