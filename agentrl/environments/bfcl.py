"""Berkeley Function Calling Leaderboard, several turns of a user each: ``bfcl:multi_turn_base``,
``_miss_func``, ``_miss_param``, ``_long_context``; ``bfcl:multi_turn`` is all four.

A turn ends with an answer that calls no tool. Stricter than the leaderboard: where no call is
right, none may be made.
"""

import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from agentrl.environments.bfcl_systems import Systems
from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.requirement import required
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
        self._checker = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
        kinds = [one for one in KINDS if what in ("multi_turn", f"multi_turn_{one}")]
        if not kinds:
            raise ValueError(f"bfcl:{what} is not known: write multi_turn, or multi_turn_{KINDS}")
        files = [f"BFCL_v4_multi_turn_{kind}.json" for kind in kinds]
        self._entries = {one["id"]: one for f in files for one in lines(self._data / f)}
        golds = [one for f in files for one in lines(self._data / "possible_answer" / f)]
        self._golds = {one["id"]: one["ground_truth"] for one in golds}

    def tasks(self) -> tuple[list[Task], list[Task]]:
        """Every fifth is held out, of each kind the same: they vary the same two hundred."""
        asked = {name: one["question"][0][0]["content"] for name, one in self._entries.items()}
        rows = [{"id": name, "question": asked[name]} for name in asked if name != UNSOLVABLE]
        held_out = [row for row in rows if int(row["id"].rpartition("_")[2]) % 5 == 4]
        return [row for row in rows if row not in held_out], held_out

    def reset(self, task: Task, seed: int) -> Observation:
        self._entry, self._gold = self._entries[task["id"]], self._golds[task["id"]]
        docs = self._known.MULTI_TURN_FUNC_DOC_FILE_MAPPING
        files = [docs[system] for system in self._entry["involved_classes"]]
        tools = [tool for f in files for tool in lines(self._data / "multi_turn_func_doc" / f)]
        self._systems, self._is_right = Systems(self._checker, self._entry, tools), True
        return self._asked()

    def step(self, action: Action) -> Observation:
        if isinstance(action, ToolCall):
            return self._observation(self._systems.call(action.name, action.arguments))
        self._is_right &= self._systems.end_turn(self._gold[self._systems.turn])
        if self._systems.turn < len(self._gold):
            return self._asked()
        is_right = self._is_right
        return Observation(text="", reward=float(is_right), done=True, success=is_right)

    def _asked(self) -> Observation:
        said = [message["content"] for message in self._entry["question"][self._systems.turn]]
        more = self._prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        return self._observation("\n".join(said) or more)

    def _observation(self, text: str) -> Observation:
        return Observation(text=text, tools=[*self._systems.tools.values()])


@cache
def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    for theirs, of_json_schema in JSON_TYPES.items():
        text = text.replace(theirs, of_json_schema)
    return [json.loads(line) for line in text.splitlines()]


load = BFCL
