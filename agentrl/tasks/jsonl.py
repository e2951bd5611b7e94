"""Rows as tasks, and those of a folder of jsonl."""

import hashlib
import json
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.config import DataConfig
from agentrl.types import Task

Check = Callable[[Task], Any]
"""Raises ValueError for a task that cannot be used, saying why."""


def with_id(row: Mapping) -> Task:
    """The row as a task: a stable ``"id"`` is made of what it holds, where the data has none.

    Raises ValueError where it holds what has no lasting text.
    """
    task = {**row}
    return task if task.get("id") is not None else {**task, "id": content_id(task)}


def content_id(row: Mapping) -> str:
    """The same for equal rows, in every process.

    >>> content_id({"question": "?", "sizes": {"b", "a"}})
    'b6109d75c138348c'
    """
    try:
        held = json.dumps({**row}, sort_keys=True, default=_lasting)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no id can be made of a row ({error}): give each an 'id'") from error
    return hashlib.sha256(held.encode()).hexdigest()[:16]


def _lasting(value: Any) -> Any:
    """What JSON has no form for: arrays and images by all that they hold, not by their text."""
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
        if array.dtype == object or array.ndim == 0:
            return array.tolist()
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return [getattr(value, "mode", ""), array.dtype.str, array.shape, digest]
    if isinstance(value, Set):
        return sorted(map(str, value))
    if " at 0x" in (text := str(value)):
        raise TypeError(f"{text} is another in every process")
    return text


def without_padding(row: Any) -> Any:
    """A row of Arrow's, whose structs all have the fields of any: those that are null are left out.

    >>> without_padding({"answer": None, "tools": [{"name": "f", "x": 1, "y": None}]})
    {'answer': None, 'tools': [{'name': 'f', 'x': 1}]}
    """
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(v) for name, v in value.items() if v is not None}
    return [*map(_without_nulls, value)] if isinstance(value, list) else value


def with_columns(row: Mapping, data: DataConfig) -> dict[str, Any]:
    """The row, its columns under the names that agents know them by.

    >>> with_columns({"problem": "1+1?", "level": 1}, DataConfig(question="problem"))
    {'level': 1, 'question': '1+1?'}
    """
    row = {**row}
    for name, column in (("question", data.question), ("answer", data.answer)):
        if column is not None and column not in row:
            raise ValueError(f"data.{name} is {column!r}, but a row has only {', '.join(row)}")
        if column is not None:
            row[name] = row.pop(column)
    return row


def read_jsonl(
    path: Path,
    required: tuple[str, ...] = (),
    check: Check = lambda task: None,
    data: DataConfig | None = None,
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
            task = with_id(_row(line, required, data))
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


def _row(line: bytes, required: tuple[str, ...], data: DataConfig | None) -> dict:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8: convert the file, say with iconv -t UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"not a JSON object, but a {type(row).__name__}")
    row = with_columns(row, data) if data else row
    missing = [name for name in required if name not in row]
    if missing:
        raise ValueError(f"no {' and no '.join(map(repr, missing))}")
    for name in required:
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"no text as {name!r}, but {row[name]!r}")
    return row


def read_folder(
    data: DataConfig, required: tuple[str, ...] = (), check: Check = lambda task: None
) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks from train.jsonl and test.jsonl in ``data.path``; see read_jsonl."""
    folder = Path(data.path)
    files = [folder / "train.jsonl", folder / "test.jsonl"]
    for file in files:
        if not file.is_file():
            raise ValueError(f"there is no {file}: --data.path wants train.jsonl and test.jsonl")
    train, test = (read_jsonl(file, required, check, data) for file in files)
    return train, test
