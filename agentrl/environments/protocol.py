"""Environment: what an episode acts in, one action after another.

    class Countdown:
        def reset(self, task, seed): return Observation(text="Say a number.")
        def step(self, action): return Observation(text="Thanks.", reward=1.0, done=True)

Its methods may be ``async``: then it runs on the episode's event loop; otherwise in a process of
its own. It may have ``close()``, for when it is not needed any more, and ``tasks()``, which returns
its own rows, train and held out.
"""

import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentrl.types import Reward, Task


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """An action by a tool."""

    name: str
    arguments: Any
    """From their JSON; the text itself, where it is none."""


Action = str | ToolCall
"""What a model said, or a tool that it called."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a world shows to whoever acts next, and what the last action was worth."""

    text: str
    player: str = "agent"
    """Whose turn it is."""
    tools: Sequence[dict[str, Any]] = ()
    """What it may call, in OpenAI's form."""
    reward: Reward | None = 0.0
    """Of whoever acted; or of several players, by name. None: a judge decides at the end."""
    done: bool = False
    success: bool | None = None
    """Of the episode, where the world can tell."""
    is_refused: bool = False
    """The action was none of this world's: three in a row end an episode."""
    actions: Sequence[Any] = field(default=(), repr=False)
    """Legal actions to draw from, where they can be listed: texts, or calls' names and arguments.
    The model is not shown them: what it needs to know stands in the text."""


class Environment(Protocol):
    """A world. What one of its methods raises ends the episode as an error, with its cause."""

    def reset(self, task: Task, seed: int) -> Observation | Awaitable[Observation]:
        """Begin an episode, the first or another. What is drawn by chance depends on the task and
        this seed alone."""

    def step(self, action: Action) -> Observation | Awaitable[Observation]:
        """What follows from an action, however odd that is."""


async def settled(returned: Any) -> Any:
    """What a method returned, which may be async."""
    return await returned if inspect.isawaitable(returned) else returned
