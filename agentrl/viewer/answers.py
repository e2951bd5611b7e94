"""Answers to the page: what is told about runs, as JSON."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import pydantic_core

from agentrl.records import CallRecord, Found, RunRecords

MAX_TOKENS = 300_000
"""More than a page can hold of one episode."""
PER_PAGE = 400
"""Rows of a list that are sent at once."""
SEARCH_SECONDS = 0.5
"""How long a text is looked for before it is told what has been found."""


def describe(runs: Sequence[RunRecords]) -> list[dict[str, Any]]:
    """The runs' names and seeds; those that differ in nothing else share a ``family``."""
    told = []
    for run in runs:
        experiment, config = run.config.get("experiment", ""), run.config.get("config", {})
        same = {name: value for name, value in config.items() if name not in ("seed", "runs")}
        told.append(
            {
                "name": run.name,
                "folder": str(run.folder),
                "experiment": experiment,
                "seed": config.get("seed"),
                "family": json.dumps([experiment, same], sort_keys=True),
            }
        )
    return told


def metrics(run: RunRecords) -> dict[str, list[Any]]:
    """The numbers of metrics.jsonl by name, one a step's row; None where a row has none."""
    rows = [row for row in run.metrics() if _number(row.get("step")) is not None]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(v is not None for v in values)}


def episodes(run: RunRecords, **wanted: Any) -> Found:
    """A page of the list of episodes; ``after``, to ask on from, None: these were the last.

    wanted: see ``RunRecords.page``. Looking for a text, a page holds what was found in a moment,
    which may be nothing yet.
    """
    return run.page(limit=PER_PAGE, seconds=SEARCH_SECONDS, **wanted)


def episode(
    run: RunRecords, step: int, task_id: str, index: int, group: int | None
) -> dict[str, Any]:
    """One episode's row, its tokens as a tree, the text of each, and its calls; the key is that of
    ``RunRecords.read``.

    Raises ValueError where there is no such episode, or it is too large for a page.
    """
    record = run.read(step, task_id, index, group)
    size = len(record.ids)
    if size > MAX_TOKENS:
        raise ValueError(
            f"this episode has {size:,} tokens, and the page shows up to {MAX_TOKENS:,}: "
            "read it with agentrl.records.open_run"
        )
    return {
        "row": record.row,
        "ids": record.ids.tolist(),
        "parent": record.parent.tolist(),
        "texts": run.decode(record.ids),
        "calls": [_call(call) for call in record.calls],
    }


def _call(call: CallRecord) -> dict[str, Any]:
    """A call, with a number for each token that it sampled."""
    names = ("agent", "leaf", "finish_reason", "under_grammar", "why_forked", "in_loss")
    names += ("observation", "reward")
    numbers = ("sampler_logprobs", "trainer_logprobs", "entropies", "weights", "advantages")
    return {
        **{name: getattr(call, name) for name in names},
        **{name: getattr(call, name).tolist() for name in numbers},
    }


def to_json(value: Any) -> bytes:
    """JSON has no NaN: null in its place."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def _number(value: Any) -> float | None:
    # JSON's whole numbers may be larger than any float.
    is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None
