"""A model that a workflow holds, and what it is said to have called."""

import dataclasses

from agentrl.types import Call

CALL = Call(prompt_ids=[1], completion_ids=[2], logprobs=[-0.1])


class ScriptedModel:
    """A client behind which one call was made."""

    def __init__(self, context_full: bool = False, agents: tuple[str, ...] = ("agent",)):
        self.calls = tuple(dataclasses.replace(CALL, agent=agent) for agent in agents)
        self.closed, self.seed = False, 0
        self.context_full = self.truncated = context_full

    def close(self) -> None:
        self.closed = True
