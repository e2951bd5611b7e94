"""Answers to the page: what is told about a run in JSON, and bytes for its tokens.

An episode travels as one block of bytes, little-endian:

    4 bytes         how long the head is
    the head        JSON, padded with spaces to a multiple of 8 bytes: the episode's row, its calls,
                    the texts that its tokens have, and of each array its type, offset and length
    the arrays      one after the other, each at a multiple of 8 bytes

so that the page lays typed arrays over it and parses nothing a token.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydantic_core

from agentrl.records import CallRecord, EpisodeRecord, Found, RunRecords

MAX_TOKENS = 2_000_000
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


def episode(run: RunRecords, step: int, task_id: str, index: int, group: int | None) -> bytes:
    """Every token of one episode, in the form above; its key is that of ``RunRecords.read``.

    Raises ValueError where there is no such episode, or it is too large for a page.
    """
    record = run.read(step, task_id, index, group)
    size = len(record.ids)
    if size > MAX_TOKENS:
        raise ValueError(
            f"this episode has {size:,} tokens, and the page shows up to {MAX_TOKENS:,}: "
            "read it with agentrl.records.open_run"
        )
    said = run.decode(record.ids)
    texts = {text: number for number, text in enumerate(dict.fromkeys(said))}
    arrays = {
        "ids": record.ids,
        "parent": record.parent,
        "text": np.array([texts[text] for text in said], np.int32),
        "in_loss": _in_loss(record),
        **_terms(record.calls),
    }
    calls = [_call(call) for call in record.calls]
    return _packed({"row": record.row, "calls": calls, "texts": list(texts)}, arrays)


def _in_loss(record: EpisodeRecord) -> np.ndarray:
    """1 for each token of the tree that is in the loss of some call."""
    flags = np.zeros(len(record.ids), np.uint8)
    for call in record.calls:
        if call.in_loss:
            flags[call.path[call.start :]] = 1
    return flags


def _terms(calls: Sequence[CallRecord]) -> dict[str, np.ndarray]:
    """What the calls say of the tokens that they sampled, one call after the other."""
    names = ("sampler_logprobs", "trainer_logprobs", "entropies", "weights", "advantages")
    return {
        name: np.concatenate(
            [np.zeros(0), *(getattr(call, name) for call in calls)], dtype=np.float32
        )
        for name in names
    }


def _call(call: CallRecord) -> dict[str, Any]:
    names = ("agent", "leaf", "finish_reason", "under_grammar", "why_forked")
    return {name: getattr(call, name) for name in names} | {"sampled": len(call.completion_ids)}


def _packed(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """
    >>> block = _packed({}, {"ids": np.array([7], np.int32)})
    >>> block[4:36].decode(), block[-8:].hex()
    ('{"arrays":{"ids":["int32",0,1]}}', '0700000000000000')
    """
    about, body = {}, b""
    for name, array in arrays.items():
        about[name] = [array.dtype.name, len(body), len(array)]
        body += array.tobytes()
        body += b"\0" * (-len(body) % 8)
    text = to_json({**head, "arrays": about})
    text += b" " * (-(4 + len(text)) % 8)
    return len(text).to_bytes(4, "little") + text + body


def to_json(value: Any) -> bytes:
    """JSON has no NaN: null in its place."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def _number(value: Any) -> float | None:
    # JSON's whole numbers may be larger than any float.
    is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None
