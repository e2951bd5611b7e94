"""Tasks from a folder of jsonl, or from the hub."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentrl import hub
from agentrl.types import Task

Check = Callable[[Task], Any]
"""Raises ValueError for a task that cannot be used, saying why."""


def with_id(row: dict) -> Task:
    """The row as a task: a stable ``"id"`` is added where the data has none."""
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()
    return {"id": digest[:16], **row}


def read_jsonl(
    path: Path, required: tuple[str, ...] = (), check: Check = lambda task: None
) -> list[Task]:
    """One task a line. Raises ValueError naming the file, the line and what is wrong with it.

    required: names under which each row must have a text.
    """
    tasks = []
    # Not splitlines(): a JSON string may hold other line separators.
    for line_number, line in enumerate(_read(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            task = with_id(_row(line, required))
            check(task)
        except ValueError as error:
            raise ValueError(f"{path}:{line_number}: {error}") from None
        tasks.append(task)
    if not tasks:
        raise ValueError(f"{path} holds no tasks: give one JSON object a line")
    return tasks


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error


def _row(line: bytes, required: tuple[str, ...]) -> dict:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8: convert the file, say with iconv -t UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object, but a {type(row).__name__}")
    missing = [name for name in required if name not in row]
    if missing:
        raise ValueError(f"no {' and no '.join(map(repr, missing))}")
    for name in required:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"no text as {name!r}, but {row[name]!r}")
    return row


def read_folder(
    folder: str, required: tuple[str, ...] = (), check: Check = lambda task: None
) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks from FOLDER/train.jsonl and FOLDER/test.jsonl; see read_jsonl."""
    files = [Path(folder) / "train.jsonl", Path(folder) / "test.jsonl"]
    for file in files:
        if not file.is_file():
            raise ValueError(f"there is no {file}: --data.path wants train.jsonl and test.jsonl")
    train, test = (read_jsonl(file, required, check) for file in files)
    return train, test


def read_hub(name: str, subset: str) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks of a dataset on the hub, or in its local cache."""
    hub.stay_offline_where_unreachable()
    # Slow to import, and only needed here.
    from datasets import load_dataset

    try:
        splits = load_dataset(name, subset)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {name} from the hub, nor from its cache here ({type(error).__name__}): "
            f"give a local folder of jsonl with --data.path, {hub.OFFLINE}"
        ) from error
    return [with_id(row) for row in splits["train"]], [with_id(row) for row in splits["test"]]
