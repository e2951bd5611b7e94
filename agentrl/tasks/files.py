"""Files of rows: one, or a folder of train.*, test.* (or validation.*): ``files:data/math``.

jsonl, json, csv, parquet or arrow, as ``datasets`` reads them.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from agentrl.config import DataConfig
from agentrl.tasks.hf import read
from agentrl.types import Task

FORMATS = {name: "json" if name == "jsonl" else name for name in ("jsonl", "json", "csv")}
FORMATS |= {name: name for name in ("parquet", "arrow")}


def load(what: str, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Raises ValueError, in a sentence, where it cannot be read."""
    # Slow to import, and only needed here.
    from datasets import load_dataset

    path = Path(what)
    kind, wanted = path.suffix.removeprefix("."), f"{', '.join(FORMATS)}"
    if not path.exists():
        raise ValueError(f"there is no {path}: give a file ({wanted}), or a folder of such")
    if not path.is_dir() and kind not in FORMATS:
        raise ValueError(f"{path} is no file of rows: give one of {wanted}, or a folder of such")
    # What it makes of them is of no use afterwards.
    with TemporaryDirectory() as cache:
        if path.is_dir():
            rows = partial(load_dataset, str(path), cache_dir=cache)
        else:
            rows = partial(load_dataset, FORMATS[kind], data_files=str(path), cache_dir=cache)
        return read(rows, str(path), data, f"({{}}): give {wanted} that are whole")
