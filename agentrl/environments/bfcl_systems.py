"""Systems of BFCL in an episode: those that a model's calls have changed, and how they should be.

They are the package's, and so is the check of what they answered and have become; a model's calls
are calls of their methods, where the package would evaluate its text.
"""

import json
from contextlib import suppress
from types import ModuleType
from typing import Any
from uuid import uuid4

from agentrl.environments.tool_calls import as_tool


class Systems:
    def __init__(self, checker: ModuleType, entry: dict[str, Any], tools: list[dict[str, Any]]):
        """checker: the package's; tools: all of theirs, also those that are held back."""
        self._checker, self._entry, self._known = checker, entry, tools
        # The package keeps the systems of each episode by a name.
        self._episode, self._answers, self._num_calls, self.turn = uuid4().hex, [], 0, 0
        _, self.own = self._execute("own", [])

    @property
    def tools(self) -> dict[str, dict]:
        """By name; but for what is held back until a later turn."""
        held_back = self._entry.get("missed_function", {}).items()
        missing = [n for turn, names in held_back if int(turn) > self.turn for n in names]
        tools = [tool for tool in self._known if tool["name"] not in missing]
        return {t["name"]: as_tool(t["name"], t["parameters"], t["description"]) for t in tools}

    def call(self, name: str, arguments: Any) -> str:
        self._num_calls += 1
        self._answers.append(self._called(name, arguments))
        return self._answers[-1]

    def end_turn(self, calls: list[str]) -> bool:
        """Whether it was right; calls: those that are right, as texts."""
        answers, systems = self._execute("right", calls)
        num_calls, self._num_calls, self.turn = self._num_calls, 0, self.turn + 1
        if not calls or not num_calls:
            return bool(calls) == bool(num_calls)
        state = self._checker.state_checker(self.own, systems)
        told = self._checker.response_checker(self._answers, answers, self.turn)
        return state["valid"] and told["valid"]

    def _called(self, name: str, arguments: Any) -> str:
        if name not in self.tools:
            return f"There is no tool {name[:99]}."
        # Of two that have it, the package takes the last.
        *_, method = (getattr(one, name) for one in self.own.values() if hasattr(one, name))
        try:
            return _told(method(**arguments))
        except Exception as error:
            return f"Error during execution: {error}"

    def _execute(self, whose: str, calls: list[str]) -> tuple[list[str], dict[str, Any]]:
        """What somebody's systems answer, and they themselves; calls: texts that are evaluated."""
        one, name = self._entry, f"{whose}_{self._episode}"
        about = one["initial_config"], one["involved_classes"], name, one["id"]
        is_long = "long_context" in one["id"]
        return self._checker.execute_multi_turn_func_call(calls, *about, is_long)


def _told(returned: Any) -> str:
    """As the package tells the results of right calls, with which these are compared."""
    if isinstance(returned, dict):
        with suppress(TypeError):
            return json.dumps(returned)
    return str(returned)
