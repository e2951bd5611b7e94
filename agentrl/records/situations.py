"""Situations: recorded calls that other weights answer anew. From here, does the agent do right?

A line of FOLDER/situations.jsonl is one: the prompt's ids as they were recorded, what was said
then, how it was sampled, where it is from, and what is expected: a function of an answer's text to
a bool, by its name; its file is found from the folder.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentrl.callables import load_callable
from agentrl.records.reader import RunRecords
from agentrl.tasks.jsonl import read_jsonl
from agentrl.types import EVAL_SET, Task

FILE = "situations.jsonl"


def freeze(
    run: RunRecords, to: Path, step: int, task: str, episode: int, call: int, expect: str
) -> Task:
    """Add a recorded call to a folder; ``is_expected``: of its own answer.

    Raises ValueError, in a sentence, where there is no such call or function, or it is there.
    """
    calls = run.read(step, task, episode).calls
    if not 0 <= call < len(calls):
        raise ValueError(f"call is {call}, and the episode made {len(calls)}: they begin with 0")
    asked, (file, _, function) = calls[call], expect.rpartition(":")
    said = run.text(asked.completion_ids[: -1 if asked.finish_reason == "stop" else None])
    situation = {
        "id": f"{task}-{step}-{episode}-{call}",
        "from": {"run": run.name, "step": step, "task": task, "episode": episode, "call": call},
        "prompt": run.text(asked.prompt_ids),
        "answer": said,
        "is_expected": bool(load_callable(expect)(said)),
        "expect": f"{os.path.relpath(file, to)}:{function}",
        "sampling": run.config["config"]["sampling"],
        "prompt_ids": asked.prompt_ids.tolist(),
    }
    path = to / FILE
    if path.exists() and situation["id"] in {one["id"] for one in read_jsonl(path)}:
        raise ValueError(f"{path} has {situation['id']}: remove its line to expect something else")
    to.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        lines.write(json.dumps(situation) + "\n")
    return situation


def read_situations(folder: Path) -> list[Task]:
    """As held-out tasks of ``answer``, a set each. Raises ValueError."""
    situations = read_jsonl(folder / FILE, required=("prompt", "expect"))
    for one in situations:
        file, _, function = one["expect"].rpartition(":")
        one |= {EVAL_SET: one["id"], "expect": f"{(folder / file).resolve()}:{function}"}
        load_callable(one["expect"])
        one["code"] = (folder / file).read_text()
    return situations


def check_tokens(situations: Sequence[Task], decode: Callable[[list[int]], str]) -> None:
    """Raise ValueError where a prompt's ids say something else to a model; decode: its own."""
    for one in situations:
        if decode(one["prompt_ids"]) != one["prompt"]:
            raise ValueError(
                f"{one['id']} says something else to this model: its tokenizer is another"
            )


async def answer(task: Task, model: Any) -> float:
    """The workflow: an answer to the prompt's very ids, and whether it is expected."""
    completion = await model.openai.completions.create(
        model=model.name, prompt=task["prompt_ids"], max_tokens=task["sampling"]["max_tokens"]
    )
    return float(bool(load_callable(task["expect"])(completion.choices[0].text)))
