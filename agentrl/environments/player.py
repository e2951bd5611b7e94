"""Players of an environment: a conversation each, and what it has earned."""

from collections.abc import Sequence
from random import Random
from typing import Any

from agentrl.environments.protocol import Action, Observation
from agentrl.environments.tool_calls import as_call, as_message, drawn_call
from agentrl.types import Message

CALLED = 0.8
"""The share of calls where a random player has only tools; words end some episodes."""


class Player:
    """One player's conversation; ``say`` is its own."""

    is_agent = True
    """Whether it is recorded and rewarded."""

    def __init__(self):
        self.messages: list[Message] = []
        self.total: float | None = 0.0
        """Of its rewards; None where a judge decides."""
        self.turns, self.said = 0, ""
        self.tools: Sequence[dict[str, Any]] = ()
        """Those that it was last offered."""
        self._earned = 0.0
        self._unanswered: list[str] = []
        """Ids of its calls that no tool has replied to."""

    async def say(self, seen: Observation) -> Message:
        """The next message, in OpenAI's form."""
        raise NotImplementedError

    async def answer(self, seen: Observation) -> Sequence[Action]:
        """What it does next: its calls, or else its words."""
        self.tools = seen.tools
        self.see(seen.text)
        while self._unanswered:
            self.see("(not run)")
        said = await self.say(seen)
        self.messages.append(said)
        self._earned, self.turns, self.said = 0.0, self.turns + 1, said.get("content") or ""
        calls = said.get("tool_calls") or ()
        self._unanswered = [call["id"] for call in calls]
        return [as_call(call["function"]) for call in calls] or [self.said]

    def see(self, text: str) -> None:
        """Take what the world shows: the reply to its oldest open call, or a message."""
        if self._unanswered:
            reply = {"role": "tool", "tool_call_id": self._unanswered.pop(0)}
        else:
            reply = {"role": "user"}
        self.messages.append({**reply, "content": text})

    def earn(self, reward: float | None) -> None:
        """Add to its total."""
        self.total = None if None in (reward, self.total) else self.total + reward
        self._earned += reward or 0.0


class ModelPlayer(Player):
    """A player whose words are a model's."""

    def __init__(self, model: Any, is_agent: bool):
        super().__init__()
        self._model, self.is_agent = model, is_agent

    async def say(self, seen: Observation) -> Message:
        tools = {"tools": list(seen.tools)} if seen.tools else {}
        completion = await self._model.openai.chat.completions.create(
            model=self._model.name, messages=self.messages, **tools
        )
        return completion.choices[0].message.model_dump(exclude_none=True)

    def earn(self, reward: float | None) -> None:
        """Add to its total, and to what its last call has earned."""
        super().earn(reward)
        if self.is_agent and reward:
            self._model.reward(self._earned)


class RandomPlayer(Player):
    """A player that draws among the legal actions, or calls of its tools, where none are listed."""

    def __init__(self, rng: Random):
        super().__init__()
        self._rng = rng

    async def say(self, seen: Observation) -> Message:
        action = self._rng.choice(seen.actions or [""])
        if seen.tools and not seen.actions and self._rng.random() < CALLED:
            action = drawn_call(self._rng.choice(seen.tools), self._rng)
        return as_message(action, self.turns)
