r"""Berkeley Function Calling Leaderboard, several turns of a user; two cores, no download.

    python train.py --exp bfcl                                     # turns of our own
    python train.py --exp bfcl --env bfcl:multi_turn --model.path Qwen/Qwen3-4B    # the package's

The file system that calls change, the checker of what it answered and has become, and the tools
with their descriptions are the package's; of the tools four are shown. The tiny model starts from
transcripts with bad habits: a parameter by another name, a turn that is called done and is not, a
call where no tool fits.
"""

import asyncio
import dataclasses
import random
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from agentrl.config import DataConfig, EvalConfig, ModelConfig, SamplingConfig
from agentrl.environments.bfcl import BFCL, lines
from agentrl.environments.game import game
from agentrl.environments.player import Player
from agentrl.environments.protocol import Observation
from agentrl.environments.tool_calls import as_message
from agentrl.tasks import environment as of_environment
from agentrl.tasks.jsonl import with_id
from agentrl.types import Message, Report, Task
from experiments import environment
from experiments.tiny_model import Recipe, make_tiny_model

SYSTEM = "GorillaFileSystem"
TOOLS = "touch", "mkdir", "mv", "rm"
FILES = ["plan.txt", "notes.md", "list.csv", "draft.doc", "photo.png", "letter.txt", "budget.csv"]
FOLDERS = ["docs", "old", "work", "home", "trip", "music"]
FOREIGN = ["Send to Ann: {}", "Print {}", "Translate {}", "Sign {}", "Read out {}"]
"""What none of the tools can do."""
Call = dict[str, Any]


class FewTools(BFCL):
    """The package's world on tasks that bring their turns: what is said, and the right calls."""

    def __init__(self):
        super().__init__("multi_turn_base")

    def reset(self, task: Task, seed: int) -> Observation:
        docs = self._known.MULTI_TURN_FUNC_DOC_FILE_MAPPING[SYSTEM]
        tools = {tool["name"] for tool in lines(self._data / "multi_turn_func_doc" / docs)}
        files = {name: {"type": "file", "content": ""} for name in task["files"]}
        folder = {"type": "directory", "contents": files}
        self._entries[task["id"]] = {
            "id": task["id"],
            "question": [[{"content": said}] for said in task["turns"]],
            "initial_config": {SYSTEM: {"root": {"workspace": folder}}},
            "involved_classes": [SYSTEM],
            # Until after the last turn.
            "missed_function": {str(len(task["turns"])): sorted(tools - {*TOOLS})},
        }
        self._golds[task["id"]] = [[*map(as_text, calls)] for calls in task["calls"]]
        return super().reset(task, seed)


def as_text(call: Call) -> str:
    """
    >>> as_text({"name": "mv", "arguments": {"source": "a.md", "destination": "old"}})
    "mv(source='a.md', destination='old')"
    """
    given = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
    return f"{call['name']}({given})"


def problems(seed: int, held_out: bool) -> Iterator[Task]:
    """Endlessly many; the checksum of what is said decides on which side one stands."""
    rng = random.Random(seed)
    while True:
        names, folders = rng.sample(FILES, len(FILES)), rng.sample(FOLDERS, len(FOLDERS))
        here = [names.pop() for _ in range(3)]
        task = {"env": WORLD, "files": sorted(here), "turns": [], "calls": []}
        for _ in range(rng.randint(1, 3)):
            said, calls = turn(here, names, folders, rng)
            task["turns"].append(said)
            task["calls"].append(calls)
        task["question"] = ". ".join(task["turns"])
        if (zlib.crc32(task["question"].encode()) % 8 == 0) == held_out:
            yield with_id(task)


def turn(
    here: list[str], names: list[str], folders: list[str], rng: random.Random
) -> tuple[str, list[Call]]:
    """What is said and the right calls; here: the files that are there, in which they are done."""
    kind = rng.choice(["touch", "mkdir", "rm", "mv", "none"])
    if kind == "touch":
        here.append(names.pop())
        return f"Create the file {here[-1]}", [call("touch", file_name=here[-1])]
    if kind == "mkdir":
        folder = folders.pop()
        return f"Create the folder {folder}", [call("mkdir", dir_name=folder)]
    file = rng.choice(here)
    if kind == "none":
        return rng.choice(FOREIGN).format(file), []
    here.remove(file)
    if kind == "rm":
        return f"Remove {file}", [call("rm", file_name=file)]
    folder = folders.pop()
    calls = [call("mkdir", dir_name=folder), call("mv", source=file, destination=folder)]
    return f"Move to a new folder {folder} the file {file}", calls


def call(name: str, /, **arguments: str) -> Call:
    return {"name": name, "arguments": arguments}


def tasks(data: DataConfig) -> tuple[list[Task], list[Task]]:
    if data.env:
        return of_environment.load(data.env, data)
    train, held_out = different(problems(1, False)), different(problems(2, True))
    return [*islice(train, 4000)], [*islice(held_out, 400)]


def different(tasks: Iterator[Task]) -> Iterator[Task]:
    """Each question once; of the short ones there are few."""
    seen: set[str] = set()
    for task in tasks:
        if task["question"] not in seen:
            seen.add(task["question"])
            yield task


class CallsScript(Player):
    """A player who knows the right calls, and each turn has a bad habit with some probability."""

    def __init__(self, task: Task, bad: float, rng: random.Random):
        super().__init__()
        self._actions = [
            action
            for calls in task["calls"]
            for action in (spoilt(calls, rng) if rng.random() < bad else [*calls, ending(calls)])
        ]

    async def say(self, seen: Observation) -> Message:
        return as_message(self._actions.pop(0), self.turns)


def ending(calls: list[Call]) -> str:
    return "Done." if calls else "No tool can."


def spoilt(calls: list[Call], rng: random.Random) -> list[Call | str]:
    """A turn as a bad habit has it."""
    if not calls:
        return [call("touch", file_name=rng.choice(FILES)), "Done."]
    *others, last = calls
    if rng.random() < 0.5:
        return [*others, "Done."]
    wrong = {f"the_{name}": value for name, value in last["arguments"].items()}
    return [*others, call(last["name"], **wrong), "Done."]


def make_model(report: Report) -> Path:
    rng, world, spoken = random.Random(3), FewTools(), []
    for task in islice(problems(4, held_out=False), RECIPE.transcripts):
        players = {"agent": CallsScript(task, BAD, rng)}
        asyncio.run(game(world, task, 0, players.__getitem__, players))
        spoken.append(players["agent"].messages)
    return make_tiny_model(RECIPE, spoken, [*players["agent"].tools], report)


WORLD = "experiments.bfcl:FewTools"
BAD = 0.35
"""How often a turn of the transcripts has a bad habit."""
RECIPE = Recipe(transcripts=4000, steps=200, batch=24, micro_batch_tokens=4096)

config = dataclasses.replace(
    environment.config,
    tasks=tasks,
    make_model=make_model,
    micro_batch_tokens=2048,
    model=ModelConfig(max_model_len=2048),
    sampling=SamplingConfig(max_tokens=64),
    eval=EvalConfig(every=20, num_tasks=400),
)
