"""Answers to the page: plain dicts for JSON about a run, and bytes for its tokens.

An episode travels as one block of bytes, little-endian:

    4 bytes         how long the head is
    the head        JSON, padded with spaces to a multiple of 8 bytes: the episode's row, its calls,
                    the texts that its tokens have, and of each array its type, offset and length
    the arrays      one after the other, each at a multiple of 8 bytes

so that the page lays typed arrays over it and parses nothing a token.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from agentrl.records import CallRecord, EpisodeRecord, EpisodeRow, RunRecords

MAX_TOKENS = 2_000_000
"""More than a page can hold of one episode."""
PER_PAGE = 400
"""Rows of a list that are sent at once."""
SEARCH_SECONDS = 0.5
"""How long a text is looked for before it is told what has been found."""


def describe(runs: Sequence[RunRecords]) -> list[dict[str, Any]]:
    """The runs' names and seeds; those that differ in nothing else share a ``family``."""
    families: dict[str, int] = {}
    told = []
    for run in runs:
        config = run.config.get("config", {})
        same = {name: value for name, value in config.items() if name not in ("seed", "runs")}
        key = json.dumps([run.config.get("experiment"), same], sort_keys=True, default=str)
        told.append(
            {
                "name": run.name,
                "folder": str(run.folder),
                "experiment": run.config.get("experiment", ""),
                "commit": run.config.get("commit"),
                "seed": config.get("seed"),
                "family": families.setdefault(key, len(families)),
            }
        )
    return _finite(told)


def metrics(run: RunRecords) -> dict[str, list[Any]]:
    """The numbers of metrics.jsonl by name, one a step's row; None where a row has none."""
    rows = [row for row in run.metrics() if _number(row.get("step")) is not None]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(v is not None for v in values)}


def episodes(
    run: RunRecords, *, after: tuple[int, int, int] | None = None, **filters: Any
) -> dict[str, Any]:
    """A page of the list of episodes; ``after``, to ask on from, None: these were the last; and
    ``unread``, a sentence for each thing that a search could not read.

    filters: those of ``RunRecords.episodes``. Looking for a text, a page holds what was found in a
    moment, which may be nothing yet.
    """
    found = run.page(after=after, limit=PER_PAGE, seconds=SEARCH_SECONDS, **filters)
    rows = [row_of(row) for row in found.rows]
    return {"rows": rows, "after": found.after, "unread": found.unread}


def row_of(row: EpisodeRow) -> dict[str, Any]:
    return _finite(asdict(row) | {"mean_reward": row.mean_reward})


def episode(run: RunRecords, step: int, task_id: str, index: int, group: int | None) -> bytes:
    """Every token of one episode, in the form above; its key is that of ``RunRecords.read``.

    Raises ValueError where there is no such episode, or it is too large for a page.
    """
    record = run.read(step, task_id, index, group)
    size = len(record.ids)
    if size > MAX_TOKENS:
        raise ValueError(
            f"this episode has {size:,} tokens, and the page shows up to {MAX_TOKENS:,}: "
            "read it with agentrl.records.load"
        )
    said = run.decode(record.ids)
    texts = {text: number for number, text in enumerate(dict.fromkeys(said))}
    arrays = {
        "ids": record.ids.astype(np.int32),
        "parent": record.parent.astype(np.int32),
        "text": np.array([texts[text] for text in said], np.int32),
        "in_loss": _in_loss(record),
        **_terms(record.calls),
    }
    head = {
        "row": row_of(record.row),
        "calls": [_call(call) for call in record.calls],
        "texts": list(texts),
    }
    return _packed(head, arrays)


def _in_loss(record: EpisodeRecord) -> np.ndarray:
    """1 for each token of the tree that is in the loss of some call."""
    flags = np.zeros(len(record.ids), np.uint8)
    for call in record.calls:
        if call.in_loss:
            flags[call.path[call.start :]] = 1
    return flags


def _terms(calls: Sequence[CallRecord]) -> dict[str, np.ndarray]:
    """What the calls say of the tokens that they sampled, one call after the other."""
    columns = {
        "sampler_logprob": [call.sampler_logprobs for call in calls],
        "trainer_logprob": [call.trainer_logprobs for call in calls],
        "entropy": [call.entropies for call in calls],
        "weight": [call.weights for call in calls],
        "advantage": [call.advantages for call in calls],
    }
    return {
        name: np.concatenate([np.zeros(0), *parts], dtype=np.float32)
        for name, parts in columns.items()
    }


def _call(call: CallRecord) -> dict[str, Any]:
    return {
        "agent": call.agent,
        "leaf": call.leaf,
        "sampled": len(call.completion_ids),
        "finish_reason": call.finish_reason,
        "under_grammar": call.under_grammar,
        "why_forked": call.why_forked,
    }


def _packed(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """
    >>> block = _packed({}, {"ids": np.array([7], np.int32)})
    >>> block[4:40].decode(), block[-8:].hex()
    ('{"arrays": {"ids": ["int32", 0, 1]}}', '0700000000000000')
    """
    places, pieces, size = {}, [], 0
    for name, array in arrays.items():
        places[name] = [array.dtype.name, size, len(array)]
        body = array.astype(array.dtype.newbyteorder("<")).tobytes()
        body += b"\0" * (-len(body) % 8)
        pieces.append(body)
        size += len(body)
    text = to_json({**head, "arrays": places})
    text += b" " * (-(4 + len(text)) % 8)
    return b"".join([len(text).to_bytes(4, "little"), text, *pieces])


def to_json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    # Half a surrogate pair, which JSON may name, is no character.
    return text.encode(errors="replace")


def _number(value: Any) -> float | None:
    # JSON's whole numbers may be larger than any float.
    is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None


def _finite(value: Any) -> Any:
    """JSON has no NaN: None in its place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
