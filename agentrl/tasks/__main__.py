"""Tasks looked at before a run, and stored for a machine without a network.

python -m agentrl.tasks preview hf:openai/gsm8k:main --tokenizer Qwen/Qwen2.5-1.5B-Instruct
python -m agentrl.tasks preview files:rows.csv --data.question problem --data.answer solution
python -m agentrl.tasks download hf:openai/gsm8k --path data/gsm8k
python -m agentrl.tasks download Qwen/Qwen2.5-1.5B-Instruct --path models/qwen
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentrl import hub
from agentrl.callables import load_named
from agentrl.config import DataConfig
from agentrl.printable import printable
from agentrl.tasks.jsonl import content_id
from agentrl.tasks.splits import read_tasks
from agentrl.types import Task

Named = Annotated[str, tyro.conf.Positional]
WIDEST = 300
"""Characters of a row that is shown."""


def preview(name: Named, data: DataConfig, tokenizer: str | None = None, rows: int = 2) -> None:
    """Rows, counts, lengths, duplicates, and what is in train and held-out alike.

    Args:
        name: What --tasks takes.
        tokenizer: A transformers folder or hub name, that lengths are counted with. Absent:
            characters.
        rows: So many of each are shown.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("agentrl").setLevel(logging.INFO)
    splits = read_tasks(load_named(name, "agentrl.tasks"), data)
    unit, length = "characters", len
    if tokenizer is not None:
        hub.stay_offline_where_unreachable()
        # Slow to import, and only needed here.
        from transformers import AutoTokenizer

        encode = AutoTokenizer.from_pretrained(tokenizer).encode
        unit, length = "tokens", lambda text: len(encode(text, add_special_tokens=False))
    for kind, tasks in zip(("train", "held-out"), splits, strict=True):
        print("\n".join(describe(kind, tasks, unit, length, rows)))
    asked = [{*map(question, tasks)} for tasks in splits]
    print(f"in both: {len(asked[0] & asked[1])}")


def describe(
    kind: str, tasks: Sequence[Task], unit: str, length: Callable[[str], int], rows: int
) -> list[str]:
    """A split's lines."""
    lines = [
        f"{kind}: {len(tasks)} rows, {len(tasks) - len({*map(question, tasks)})} of them again"
    ]
    names = dict.fromkeys(name for task in tasks for name in task if name != "id")
    for name in names:
        texts = [task[name] for task in tasks if isinstance(task.get(name), str)]
        if texts:
            counts = sorted(map(length, texts))
            median, most = counts[len(counts) // 2], counts[-1]
            lines.append(f"  {name}: {len(texts)} texts, {median} {unit} (median), {most} at most")
        else:
            kinds = {type(task[name]).__name__ for task in tasks if name in task}
            lines.append(f"  {name}: {', '.join(sorted(kinds))}")
    shown = (json.dumps(task, default=str, ensure_ascii=False) for task in tasks[:rows])
    return [*lines, *(f"  {printable(row)[:WIDEST]}" for row in shown)]


def question(task: Task) -> str:
    """What two rows have alike that ask the same: the text, or else all but the id.

    >>> question({"id": 1, "question": "How  big?"}) == question({"id": 2, "question": "how big?"})
    True
    """
    asked = task.get("question")
    if isinstance(asked, str):
        return " ".join(asked.casefold().split())
    return content_id({name: value for name, value in task.items() if name != "id"})


def download(name: Named, path: Path) -> None:
    """A data set (hf:owner/name) or a model (owner/name) of the hub, whole, in a folder.

    The same command goes on with the file at which it was interrupted.

    Args:
        name: hf:owner/name, or a model's owner/name.
        path: The folder; files that it has already are not fetched again.
    """
    # Slow to import, and only needed here.
    from huggingface_hub import snapshot_download

    source, _, repository = name.rpartition(":")
    if source not in ("", "hf") or repository.count("/") != 1:
        raise ValueError(f"{name} is no data set hf:owner/name and no model owner/name: give one")
    kind = "dataset" if source else "model"

    def leave(*_: Any) -> None:
        for part in path.rglob("*.incomplete"):
            part.unlink(missing_ok=True)
        print("\ninterrupted: the same command goes on from there", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)

    # Its threads would be waited for, each to the end of its file.
    signal.signal(signal.SIGINT, leave)
    try:
        snapshot_download(repository, repo_type=kind, local_dir=path)
    # Its libraries raise what they like.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"the {kind} {repository} is not whole in {path} ({cause:.300}): the same command goes "
            "on from there"
        ) from error
    print(f"{name} is in {path}: {f'--tasks hf:{path}' if source else f'--model.path {path}'}")


def main() -> None:
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"preview": preview, "download": download},
            description=__doc__,
            config=(tyro.conf.FlagConversionOff,),
        )
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
