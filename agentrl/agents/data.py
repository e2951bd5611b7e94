"""Where tasks come from: a folder of jsonl, or the hub."""

import hashlib
import json
from pathlib import Path

from agentrl.types import Task


def with_id(row: dict) -> Task:
    """The row as a task: a stable ``"id"`` is added where the data has none."""
    digest = hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()
    return {"id": digest[:16], **row}


def read_jsonl(path: Path, required: tuple[str, ...]) -> list[Task]:
    """One task a line. Raises ValueError naming the file, the line and what is missing."""
    tasks = []
    # Not splitlines(): a JSON string may hold other line separators.
    for line_number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{line_number} is not JSON ({error.msg})") from None
        missing = [name for name in required if name not in row]
        if missing:
            raise ValueError(f"{path}:{line_number} has no {' and no '.join(map(repr, missing))}")
        tasks.append(with_id(row))
    if not tasks:
        raise ValueError(f"{path} holds no tasks")
    return tasks


def read_folder(folder: str, required: tuple[str, ...]) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks from FOLDER/train.jsonl and FOLDER/test.jsonl."""
    files = [Path(folder) / "train.jsonl", Path(folder) / "test.jsonl"]
    for file in files:
        if not file.is_file():
            raise ValueError(f"there is no {file}: --data.path wants train.jsonl and test.jsonl")
    train, test = (read_jsonl(file, required) for file in files)
    return train, test


def read_hub(name: str, subset: str) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks of a dataset on the hub, or in its local cache."""
    # Slow to import, and only needed here.
    from datasets import load_dataset

    try:
        splits = load_dataset(name, subset)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {name} from the hub ({type(error).__name__}): "
            "give a local folder of jsonl with --data.path"
        ) from error
    return [with_id(row) for row in splits["train"]], [with_id(row) for row in splits["test"]]
