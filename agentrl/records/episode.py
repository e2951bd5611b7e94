"""One episode as it is read: its row, its tokens as a tree, its calls."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from agentrl.records.schema import FLOATS_OF_CALL, IMPORTANCE

Key = tuple[int, int, int]
"""Of an episode: its step, its group there, its number in the group. They are in this order."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """A row of an episodes file; see ``schema``."""

    step: int
    group: int
    episode: int
    task_id: str
    held_out: bool
    status: str
    error: str | None
    reward: float | None
    """The mean over the agents."""
    rewards: dict[str, float] | None
    """The agents' own, by name, where they have their own."""
    parts: dict[str, float]
    success: bool | None
    metrics: dict[str, float]
    seconds: float
    num_calls: int
    num_tokens: int
    num_trained: int
    block: int

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "EpisodeRow":
        """stored: a row as the file has it."""
        values = _named(cls, stored)
        named = {name: dict(values[name] or ()) for name in ("rewards", "parts", "metrics")}
        return cls(**values | named | {"rewards": named["rewards"] or None})

    @property
    def key(self) -> Key:
        return self.step, self.group, self.episode


@dataclass(frozen=True, eq=False, kw_only=True)
class CallRecord:
    """One call, as a path of its episode's tree; see ``schema``.

    Arrays have a value a completion token, NaN where there is none.
    """

    agent: str
    model: str | None
    path: np.ndarray
    """Tree positions, from the root to the last token of the completion."""
    start: int
    """Where on the path the completion begins."""
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    finish_reason: str
    under_grammar: bool
    why_forked: str | None
    in_loss: bool
    advantage: float | None
    reward: float | None
    state: str | None
    observation: str | None
    sampler_logprobs: np.ndarray
    trainer_logprobs: np.ndarray
    entropies: np.ndarray
    advantages: np.ndarray
    weights: np.ndarray
    """The loss's importance weights."""
    versions: list[int] | None
    measures: dict[str, np.ndarray]

    @property
    def leaf(self) -> int:
        return int(self.path[-1])


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeRecord:
    """One episode's token tree, depth-first, int32 of shape [T], and its calls in order."""

    row: EpisodeRow
    ids: np.ndarray
    parent: np.ndarray
    """-1 at a root."""
    calls: list[CallRecord]


def record_of(row: EpisodeRow, block: dict[str, Any]) -> EpisodeRecord:
    """The part of a block's tree that is one episode's. Raises ValueError where it has none."""
    ids, parents = block["ids"].to_numpy(), block["parents"].to_numpy()
    if len(parents) != len(ids) or (parents < -1).any() or (parents >= np.arange(len(ids))).any():
        raise ValueError("its tree is none")
    stored = _calls_of(row, block["calls"])
    paths = _paths(parents, [call["leaf"] for call in stored])
    # An ancestor of what belongs belongs, too; and the order stays depth-first.
    belongs = np.unique(np.concatenate([np.empty(0, np.int32), *paths]))
    number = np.full(len(ids) + 1, -1, np.int32)
    number[belongs] = np.arange(len(belongs))
    ids, cap = ids[belongs], block.get("importance_cap")
    return EpisodeRecord(
        row=row,
        ids=ids,
        # The number of no parent, -1, is the last.
        parent=number[parents[belongs]],
        calls=[
            _call(call, number[path], ids, cap) for call, path in zip(stored, paths, strict=True)
        ],
    )


def _calls_of(row: EpisodeRow, calls: pa.Table) -> list[dict[str, Any]]:
    group, episode = (calls[name].to_numpy() for name in ("group", "episode"))
    mine = calls.filter(pa.array((group == row.group) & (episode == row.episode)))
    if len(mine) != row.num_calls:
        raise ValueError(f"it has {len(mine)} calls of an episode that made {row.num_calls}")
    return mine.to_pylist()


def _paths(parents: np.ndarray, leaves: list[int]) -> list[np.ndarray]:
    """Tree positions from the root to each leaf; int32. -1: none."""
    # Where stretches begin of tokens that each follow the one before them.
    starts = np.union1d(0, np.flatnonzero(parents != np.arange(-1, len(parents) - 1)))
    paths = []
    for leaf in leaves:
        if not -1 <= leaf < len(parents):
            raise ValueError("a call ends outside the tree")
        parts = [np.empty(0, np.int32)]
        while leaf >= 0:
            start = starts[np.searchsorted(starts, leaf, side="right") - 1]
            parts.append(np.arange(start, leaf + 1, dtype=np.int32))
            leaf = int(parents[start])
        paths.append(np.concatenate(parts[::-1]))
    return paths


def _call(
    stored: dict[str, Any], path: np.ndarray, ids: np.ndarray, cap: float | None
) -> CallRecord:
    """ids: of the episode's tree, in which the path is."""
    start = len(path) - stored["num_sampled"]
    if not 0 <= start <= len(path):
        raise ValueError("a completion is longer than its call")
    prompt_ids, completion_ids = np.split(ids[path], [start])
    floats = {name: _each(stored.get(name), len(completion_ids)) for name in FLOATS_OF_CALL}
    if stored.get("advantages") is None and stored.get("advantage") is not None:
        floats["advantages"][:] = stored["advantage"]
    measures = {name: np.array(each, np.float32) for name, each in stored.get("measures") or ()}
    ratio = np.exp(floats["trainer_logprobs"] - floats["sampler_logprobs"])
    follows = np.minimum(ratio, np.float32(np.nan if cap is None else cap))
    computed = {
        "path": path,
        "start": start,
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "in_loss": stored.get("trainer_logprobs") is not None,
        "weights": measures.pop(IMPORTANCE, follows),
        "measures": measures,
    }
    return CallRecord(**_named(CallRecord, stored) | computed | floats)


def _named(kind: type, stored: dict[str, Any]) -> dict[str, Any]:
    """Of a row what a dataclass has fields for; None where a column lacks."""
    return {field.name: stored.get(field.name) for field in fields(kind)}


def _each(values: list[float] | None, size: int) -> np.ndarray:
    """A value a token; NaN where there are none."""
    if values is not None and len(values) != size:
        raise ValueError(f"a call has {len(values)} values for {size} tokens")
    return np.array([np.nan] * size if values is None else values, np.float32)
