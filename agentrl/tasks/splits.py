"""Splits: the train and the held-out tasks, in whatever an experiment's ``tasks`` returns them."""

import asyncio
import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import groupby, islice
from numbers import Integral
from pathlib import Path
from typing import Any

from agentrl.agents.contract import RESERVED
from agentrl.callables import callable_name, lines_at_fault
from agentrl.config import Config, DataConfig
from agentrl.tasks.jsonl import read_jsonl, with_id, without_padding
from agentrl.types import EVAL_SET, Task

MOST = 5_000_000
"""Rows of a split; what gives more may never end."""
OURS = str(Path(__file__).parents[1])


def read_splits(config: Config) -> tuple[list[Task], list[Task]]:
    """The config's train and held-out tasks, each with an id."""
    found = read_tasks(config.tasks, config.data, config.eval.sets)
    world = {"env": config.data.env} if config.data.env else {}
    return tuple([world | task for task in tasks] for tasks in found)


def find_tasks(config: Config) -> tuple[list[Task], list[Task]]:
    """The train tasks, and the held-out tasks that evaluation runs; each with an id."""
    train, held_out = read_splits(config)
    if config.eval.every and not held_out:
        raise ValueError("there are no held-out tasks to evaluate: give some, or --eval.every None")
    sets = groupby(held_out, lambda task: task.get(EVAL_SET))
    return train, [task for _, tasks in sets for task in islice(tasks, config.eval.num_tasks)]


def read_tasks(
    tasks: Callable[[DataConfig], Any], data: DataConfig, sets: Sequence[str] = ()
) -> tuple[list[Task], list[Task]]:
    """Train and held-out tasks, each with an id. sets: as ``EvalConfig`` has them.

    Two iterables of rows, a mapping of splits, or train rows alone; also from an ``async def``.
    Held-out rows may be a mapping of named sets, and ``sets`` adds others; tasks say theirs.
    Raises ValueError, with the author's lines where it is the author's code that raises.
    """
    given, noting = dict(one.split("=", 1) for one in sets), _noting(data)
    try:
        returned = tasks(noting)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        train, own = _pair(returned)
        own = own if isinstance(own, Mapping) else {"test" if given else "": own}
        train, own = _listed(train), {name: _listed(rows) for name, rows in own.items()}
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and _is_ours(error):
            raise
        cause = f"{type(error).__name__}: {error}"
        name = callable_name(tasks)
        raise ValueError(f"{name} raised {cause}{lines_at_fault(error)}") from error
    noting.check()
    for name in (*own, *given):
        if RESERVED.fullmatch(f"{name}/x") or (name in own and name in given):
            raise ValueError(f"{name} cannot name another held-out set: eval/{name} is taken")
    found = {name: _tasks("held-out", rows) for name, rows in own.items()}
    found |= {name: read_jsonl(Path(file)) for name, file in given.items()}
    named = [{EVAL_SET: name} if name else {} for name in found]
    held_out = [task | of for of, rows in zip(named, found.values(), strict=True) for task in rows]
    return _tasks("train", train), held_out


class _Noting:
    """Which settings of a config are read: what is ignored was meant otherwise."""

    def __getattribute__(self, name: str) -> Any:
        own = super().__getattribute__
        own("__dict__").setdefault("_read", set()).add(name)
        return own(name)

    def check(self) -> None:
        """Raise ValueError for a setting that was given, and that nobody has read."""
        # A workflow that opens worlds is checked with the config.
        read = {*vars(self)["_read"], "env"}
        for field in fields(self):
            value = vars(self)[field.name]
            if field.name not in read and value != field.default:
                raise ValueError(
                    f"data.{field.name} is {value!r}, which these tasks do not read: leave it out"
                )


def _noting(data: DataConfig) -> Any:
    """The config as one that notes."""
    return type("NotingConfig", (_Noting, type(data)), {})(**vars(data))


def _is_ours(error: Exception) -> bool:
    """Whether it is a sentence of this system's, say about a file; here, iterators of C raise."""
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return file.startswith(OURS) and file != __file__


def _pair(returned: Any) -> tuple[Any, Any]:
    """
    >>> _pair({"train": [1], "validation": [2]}), _pair(([1], [2])), _pair([{"q": 1}, {"q": 2}])
    (([1], [2]), ([1], [2]), ([{'q': 1}, {'q': 2}], ()))
    """
    if isinstance(returned, Mapping) and "train" in returned:
        held_out = [returned[name] for name in ("test", "validation") if name in returned]
        return returned["train"], held_out[0] if held_out else ()
    is_pair = isinstance(returned, tuple | list) and len(returned) == 2
    if is_pair and not (isinstance(returned[0], Mapping | str) or isinstance(returned[1], str)):
        return returned[0], () if returned[1] is None else returned[1]
    return returned, ()


def _listed(rows: Any) -> Any:
    """The rows, as far as they are counted; what is none is returned as it is."""
    if not isinstance(rows, Iterable) or isinstance(rows, Mapping | str | bytes):
        return rows
    rows, is_arrow = islice(rows, MOST + 1), type(rows).__module__.startswith("datasets.")
    return [*map(without_padding, rows)] if is_arrow else [*rows]


def _tasks(kind: str, rows: Any) -> list[Task]:
    wanted = "return train and held-out rows, two lists of dicts"
    if not isinstance(rows, list):
        raise ValueError(f"`tasks` returned {_short(rows)} as {kind} rows: {wanted}")
    if len(rows) > MOST:
        raise ValueError(f"`tasks` returned over {MOST} {kind} rows: return a list that ends")
    for row in rows:
        if not isinstance(row, Mapping):
            raise ValueError(f"`tasks` returned {_short(row)} as a {kind} row: {wanted}")
    tasks = [with_id(row) for row in rows]
    for name in (task["id"] for task in tasks):
        if not isinstance(name, str | Integral) or isinstance(name, bool):
            raise ValueError(f"a {kind} row has the id {_short(name)}: give a text, or none")
    return tasks


def _short(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"
