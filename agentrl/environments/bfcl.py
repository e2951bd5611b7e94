"""Berkeley Function Calling Leaderboard, several turns of a user each: ``bfcl:multi_turn_base``,
``_miss_func``, ``_miss_param``, ``_long_context``; ``bfcl:multi_turn`` is all four.

A turn ends with an answer that calls no tool. Systems are objects whose methods are called; to the
package's checkers, which evaluate texts, go only texts that were made here of such calls. Stricter
than the leaderboard: where no call is right, none may be made.
"""

import ast
import inspect
import json
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from agentrl.environments.protocol import Action, Observation, ToolCall
from agentrl.environments.requirement import required
from agentrl.types import Task

KINDS = ("base", "miss_func", "miss_param", "long_context")
JSON_TYPES = {'"type": "dict"': '"type": "object"', '"type": "float"': '"type": "number"'}
UNSOLVABLE = "multi_turn_miss_func_49"
"""Its right calls are of a tool that is held back meanwhile."""
OWNER = "agentrl_episode"
"""Of instances that the checkers keep."""


def load(what: str) -> partial:
    return partial(BFCL, what)


class BFCL:
    def __init__(self, what: str):
        package = required("bfcl_eval", "--no-deps bfcl-eval==2026.3.23")
        self._data = Path(package.__file__).parent / "data"
        self._known = import_module("bfcl_eval.constants.executable_backend_config")
        self._prompts = import_module("bfcl_eval.constants.default_prompts")
        checkers = "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_"
        self._checker, self._kept = (import_module(checkers + one) for one in ("checker", "utils"))
        kinds = [one for one in KINDS if what in ("multi_turn", f"multi_turn_{one}")]
        if not kinds:
            raise ValueError(f"bfcl:{what} is not known: write multi_turn, or multi_turn_{KINDS}")
        files = [f"BFCL_v4_multi_turn_{kind}.json" for kind in kinds]
        golds = [one for file in files for one in _lines(self._data / "possible_answer" / file)]
        self._golds = {one["id"]: one["ground_truth"] for one in golds}
        self._entries = {one["id"]: one for file in files for one in _lines(self._data / file)}

    def tasks(self) -> tuple[list[Task], list[Task]]:
        """Every fifth is held out, of each kind the same: they vary the same two hundred."""
        rows = [
            {"id": name, "question": entry["question"][0][0]["content"]}
            for name, entry in self._entries.items()
            if name != UNSOLVABLE
        ]
        held_out = [row for row in rows if int(row["id"].rpartition("_")[2]) % 5 == 4]
        return [row for row in rows if row not in held_out], held_out

    def reset(self, task: Task, seed: int) -> Observation:
        self._entry, self._gold = self._entries[task["id"]], self._golds[task["id"]]
        self._systems = [*map(self._system, self._entry["involved_classes"])]
        self._calls, self._rng = [], Random(seed)
        return self._next_turn()

    def step(self, action: Action) -> Observation:
        if isinstance(action, str):
            return self._next_turn()
        return self._observation(self._call(action))

    def close(self) -> None:
        """Its process ends."""

    def _next_turn(self) -> Observation:
        self._calls.append([])
        if len(self._calls) > len(self._gold):
            valid = self._is_valid()
            return Observation(text="", reward=float(valid), done=True, success=valid)
        messages = self._entry["question"][len(self._calls) - 1]
        text = "\n".join(message["content"] for message in messages)
        more = self._prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        return self._observation(text or more)

    def _observation(self, text: str) -> Observation:
        """Of its ten actions eight are the right one: else no random episode would succeed."""
        turn, done = self._gold[len(self._calls) - 1], len(self._calls[-1])
        right = self._parsed(turn[done]) if done < len(turn) else "Done."
        other = self._parsed(self._rng.choice([call for turn in self._gold for call in turn]))
        tools = [{"type": "function", "function": tool} for tool in self._tools().values()]
        return Observation(text=text, tools=tools, actions=[*[right] * 8, other, "Done."])

    def _system(self, name: str) -> Any:
        system = getattr(import_module(self._known.CLASS_FILE_PATH_MAPPING[name]), name)()
        if name not in self._known.STATELESS_CLASSES:
            begun = json.loads(json.dumps(self._entry["initial_config"].get(name, {})))
            system._load_scenario(begun, long_context="long_context" in self._entry["id"])
        return system

    def _tools(self) -> dict[str, dict]:
        """Those of its systems, but for what is held back until a later turn."""
        held_back = self._entry.get("missed_function", {}).items()
        missing = [n for turn, names in held_back if int(turn) >= len(self._calls) for n in names]
        files = map(
            self._known.MULTI_TURN_FUNC_DOC_FILE_MAPPING.get, self._entry["involved_classes"]
        )
        tools = [tool for f in files for tool in _lines(self._data / "multi_turn_func_doc" / f)]
        shown = ("name", "description", "parameters")
        return {t["name"]: {k: t[k] for k in shown} for t in tools if t["name"] not in missing}

    def _method(self, name: str) -> Any:
        return next(getattr(one, name) for one in self._systems if hasattr(one, name))

    def _call(self, action: ToolCall) -> str:
        """What is answered; the call is noted as the checkers read it, None for one of no tool."""
        name, arguments = action.name, action.arguments
        self._calls[-1].append("None")
        if name not in self._tools():
            return f"There is no tool {name[:99]}."
        if not isinstance(arguments, dict) or not all(map(str.isidentifier, arguments)):
            return "The arguments must be a JSON object of its parameters."
        said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        # In a text, they would take a name before a bracket for a call.
        self._calls[-1][-1] = f"{name}({said.replace('(', chr(92) + 'x28')})"
        try:
            returned = self._method(name)(**arguments)
        except Exception as error:
            return f"Error during execution: {error}"
        return returned if isinstance(returned, str) else json.dumps(returned, default=str)

    def _parsed(self, call: str) -> dict[str, Any]:
        """A call of the gold answer as a tool call: its name, its arguments by name."""
        tree = ast.parse(call, mode="eval").body
        by_name = {one.arg: ast.literal_eval(one.value) for one in tree.keywords}
        signature = inspect.signature(self._method(tree.func.id))
        bound = signature.bind(*map(ast.literal_eval, tree.args), **by_name)
        return {"name": tree.func.id, "arguments": bound.arguments}

    def _is_valid(self) -> bool:
        calls = [[turn] if turn else [] for turn in self._calls[:-1]]
        for name in [one for one in vars(self._kept) if one.startswith(OWNER)]:
            delattr(self._kept, name)
        checked = self._checker.multi_turn_checker(calls, self._gold, self._entry, "", OWNER)
        idle = self._checker.multi_turn_irrelevance_checker(calls, self._gold)
        return checked["valid"] and idle["valid"]


@cache
def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    for theirs, of_json_schema in JSON_TYPES.items():
        text = text.replace(theirs, of_json_schema)
    return [json.loads(line) for line in text.splitlines()]
