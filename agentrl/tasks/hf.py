"""Data sets of the hub, or of a folder that has one: ``hf:owner/name[:subset]``."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentrl import hub
from agentrl.config import DataConfig
from agentrl.tasks.jsonl import content_id, with_columns, with_id, without_padding
from agentrl.types import Task

HELD_OUT = ("test", "validation", "dev")
"""Splits, the first of which that is there is held out."""
MOST_HELD_OUT = 500
"""Rows that are cut off where no split is held out; a tenth, where that is less."""

log = logging.getLogger(__name__)


def load(what: str, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Raises ValueError, in a sentence, where it cannot be read."""
    name, _, subset = what.partition(":")
    return read_hub(name, subset or None, data)


def read_hub(name: str, subset: str | None, data: DataConfig) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks of a data set on the hub, or in its local cache."""
    hub.stay_offline_where_unreachable()

    def dataset(**options: Any) -> Any:
        # Slow to import, and only needed here.
        from datasets import load_dataset

        return load_dataset(name, subset, **options)

    hint = f"give a local folder of jsonl with --data.path, {hub.OFFLINE}"
    return read(dataset, name, data, f"from the hub, nor from its cache here ({{}}): {hint}")


def read(
    dataset: Callable[..., Any], name: str, data: DataConfig, failed: str
) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks of what ``dataset`` loads, as ``datasets`` does: all, or a split.

    failed: how the sentence goes on where it cannot be loaded, with ``{}`` for the cause. Raises
    ValueError.
    """

    def rows(split: str) -> list[Task]:
        with told(name, failed):
            found = known[split] if split in known else dataset(split=split)
            found = [*map(without_padding, found)]
        return [with_id(with_columns(row, data)) for row in found]

    with told(name, failed):
        known = dataset()
    if data.train_split is None and "train" not in known:
        raise ValueError(
            f"{name} has no train split, only {', '.join(known)}: give --data.train-split, or "
            "another set"
        )
    train = data.train_split or "train"
    others = (split for split in HELD_OUT if split in known and split != train)
    held_out = data.held_out_split or next(others, None)
    return (rows(train), rows(held_out)) if held_out else cut(rows(train), name)


def cut(tasks: Sequence[Task], name: str, by: str = "id") -> tuple[list[Task], list[Task]]:
    """Hold some of them out, by what they hold: the same each time, those of one ``by`` together.

    >>> train, held_out = cut([{"id": str(i)} for i in range(20)], "numbers")
    >>> len(train), len(held_out)
    (18, 2)
    """
    ids = sorted({task[by] for task in tasks}, key=lambda id: content_id({"id": id}))
    chosen = {*ids[: min(MOST_HELD_OUT, -(-len(ids) // 10))]} if len(ids) > 1 else set()
    train, held_out = ([t for t in tasks if (t[by] in chosen) == side] for side in (False, True))
    log.warning(
        "%s has no held-out split: %d of its %d rows, the same each time, are held out and not "
        "trained on; of a data set, --data.held-out-split names another",
        *(name, len(held_out), len(tasks)),
    )
    return train, held_out


@contextmanager
def told(name: str, failed: str) -> Iterator[None]:
    """A ValueError, whatever its libraries raise: scripts, subsets, files that break, images.

    failed: how the sentence goes on, with ``{}`` for the cause.
    """
    try:
        yield
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise ValueError(f"cannot load {name} {failed.format(cause)}") from error
