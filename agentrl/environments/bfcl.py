"""Berkeley Function Calling Leaderboard, several turns of a user each: ``bfcl:multi_turn_base``,
``_miss_func``, ``_miss_param``, ``_long_context``; ``bfcl:multi_turn`` is all four.

A turn ends with an answer that calls no tool. The systems are the package's, and so is the check of
what they answered and have become; a model's calls are calls of their methods, where the package
would evaluate its text. Stricter than the leaderboard: where no call is right, none may be made.
"""

import json
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.requirement import required
from agentrl.environments.tool_calls import as_tool
from agentrl.types import Task

KINDS = ("base", "miss_func", "miss_param", "long_context")
JSON_TYPES = {'"type": "dict"': '"type": "object"', '"type": "float"': '"type": "number"'}
UNSOLVABLE = "multi_turn_miss_func_49"
"""Its right calls are of a tool that is held back meanwhile."""


class BFCL:
    def __init__(self, what: str):
        package = required("bfcl_eval", "--no-deps bfcl-eval==2026.3.23")
        self._data = Path(package.__file__).parent / "data"
        self._known = import_module("bfcl_eval.constants.executable_backend_config")
        self._prompts = import_module("bfcl_eval.constants.default_prompts")
        self._check = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
        kinds = [one for one in KINDS if what in ("multi_turn", f"multi_turn_{one}")]
        if not kinds:
            raise ValueError(f"bfcl:{what} is not known: write multi_turn, or multi_turn_{KINDS}")
        files = [f"BFCL_v4_multi_turn_{kind}.json" for kind in kinds]
        self._entries = {one["id"]: one for f in files for one in _lines(self._data / f)}
        golds = [one for f in files for one in _lines(self._data / "possible_answer" / f)]
        self._golds = {one["id"]: one["ground_truth"] for one in golds}

    def tasks(self) -> tuple[list[Task], list[Task]]:
        """Every fifth is held out, of each kind the same: they vary the same two hundred."""
        asked = {name: one["question"][0][0]["content"] for name, one in self._entries.items()}
        rows = [{"id": name, "question": asked[name]} for name in asked if name != UNSOLVABLE]
        held_out = [row for row in rows if int(row["id"].rpartition("_")[2]) % 5 == 4]
        return [row for row in rows if row not in held_out], held_out

    def reset(self, task: Task, seed: int) -> Observation:
        self._entry, self._gold = self._entries[task["id"]], self._golds[task["id"]]
        # The package keeps the systems of each episode by a name.
        self._episode, self._answers = uuid4().hex, []
        self._turn, self._num_calls, self._is_right = 0, 0, True
        _, self._systems = self._execute("own", [])
        return self._asked()

    def step(self, action: Action) -> Observation:
        if isinstance(action, ToolCall):
            self._num_calls += 1
            self._answers.append(self._called(action.name, action.arguments))
            return self._observation(self._answers[-1])
        self._is_right &= self._is_turn_right(self._gold[self._turn])
        self._turn, self._num_calls = self._turn + 1, 0
        if self._turn < len(self._gold):
            return self._asked()
        is_right = self._is_right
        return Observation(text="", reward=float(is_right), done=True, success=is_right)

    def _asked(self) -> Observation:
        said = [message["content"] for message in self._entry["question"][self._turn]]
        more = self._prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        return self._observation("\n".join(said) or more)

    def _observation(self, text: str) -> Observation:
        return Observation(text=text, tools=[*self._tools().values()])

    def _execute(self, whose: str, calls: list[str]) -> tuple[list[str], dict[str, Any]]:
        """What somebody's systems answer, and they themselves; calls: texts that are evaluated."""
        one, name = self._entry, f"{whose}_{self._episode}"
        about = one["initial_config"], one["involved_classes"], name, one["id"]
        is_long = "long_context" in one["id"]
        return self._check.execute_multi_turn_func_call(calls, *about, is_long)

    def _tools(self) -> dict[str, dict]:
        """Those of its systems, but for what is held back until a later turn."""
        held_back = self._entry.get("missed_function", {}).items()
        missing = [n for turn, names in held_back if int(turn) > self._turn for n in names]
        docs = self._known.MULTI_TURN_FUNC_DOC_FILE_MAPPING
        files = [self._data / "multi_turn_func_doc" / docs[one] for one in self._systems]
        tools = [tool for f in files for tool in _lines(f) if tool["name"] not in missing]
        return {t["name"]: as_tool(t["name"], t["parameters"], t["description"]) for t in tools}

    def _called(self, name: str, arguments: Any) -> str:
        if name not in self._tools():
            return f"There is no tool {name[:99]}."
        # Of two that have it, the package takes the last.
        *_, method = (getattr(one, name) for one in self._systems.values() if hasattr(one, name))
        try:
            return _told(method(**arguments))
        except Exception as error:
            return f"Error during execution: {error}"

    def _is_turn_right(self, calls: list[str]) -> bool:
        answers, systems = self._execute("right", calls)
        if not calls or not self._num_calls:
            return bool(calls) == bool(self._num_calls)
        state = self._check.state_checker(self._systems, systems)
        told = self._check.response_checker(self._answers, answers, self._turn)
        return state["valid"] and told["valid"]


def _told(returned: Any) -> str:
    """As the package tells the results of right calls, with which these are compared."""
    if isinstance(returned, dict):
        with suppress(TypeError):
            return json.dumps(returned)
    return str(returned)


@cache
def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    for theirs, of_json_schema in JSON_TYPES.items():
        text = text.replace(theirs, of_json_schema)
    return [json.loads(line) for line in text.splitlines()]


load = BFCL
