"""One episode as it is read: its row, its tokens as a tree, its calls."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agentrl.records.schema import FLOATS_OF_CALL, IMPORTANCE
from agentrl.types import Reward

Key = tuple[int, int, int]
"""Of an episode: its step, its group there, its number in the group. They are in this order."""
AS_STORED = (
    *("agent", "model", "finish_reason", "under_grammar", "why_forked"),
    *("advantage", "reward", "state", "observation", "versions"),
)


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
    reward: Reward | None
    """The agents' own, by name, where they have their own."""
    parts: dict[str, float]
    success: bool | None
    metrics: dict[str, float]
    seconds: float
    num_calls: int
    num_tokens: int
    num_trained: int

    @property
    def key(self) -> Key:
        return self.step, self.group, self.episode

    @property
    def mean_reward(self) -> float | None:
        if isinstance(self.reward, dict):
            return sum(self.reward.values()) / len(self.reward)
        return self.reward


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
    versions: np.ndarray | None
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


def row_of(stored: dict[str, Any]) -> EpisodeRow:
    """stored: a row of an episodes file."""
    named = {name: dict(stored[name] or ()) for name in ("metrics", "parts")}
    rewards = stored["rewards"]
    reward = stored["reward"] if rewards is None else dict(rewards)
    others = {name: value for name, value in stored.items() if name not in ("rewards", "block")}
    return EpisodeRow(**others | named | {"reward": reward})


def record_of(row: EpisodeRow, block: dict[str, Any]) -> EpisodeRecord:
    """The part of a block's tree that is one episode's. Raises ValueError where it has none."""
    ids, parents = block["ids"].to_numpy(), block["parents"].to_numpy()
    if len(parents) != len(ids) or (parents < -1).any() or (parents >= np.arange(len(ids))).any():
        raise ValueError("its tree is none")
    stored = _calls_of(row, block["calls"])
    paths = _paths(parents, [call["leaf"] for call in stored])
    belongs = np.zeros(len(ids), bool)
    for path in paths:
        belongs[path] = True
    # An ancestor of what belongs belongs, too; and the order stays depth-first.
    number = (np.cumsum(belongs) - 1).astype(np.int32)
    ids, parents = ids[belongs], parents[belongs]
    cap = block.get("importance_cap")
    return EpisodeRecord(
        row=row,
        ids=ids,
        parent=np.where(parents < 0, np.int32(-1), number[parents]),
        calls=[
            _call(call, number[path], ids, cap) for call, path in zip(stored, paths, strict=True)
        ],
    )


def _calls_of(row: EpisodeRow, calls: pa.Table) -> list[dict[str, Any]]:
    """The stored calls of an episode; lists of numbers as arrays."""
    of_group, of_number = (pc.equal(calls[n], getattr(row, n)) for n in ("group", "episode"))
    mine = calls.filter(pc.and_(of_group, of_number))
    if len(mine) != row.num_calls:
        raise ValueError(f"it has {len(mine)} calls of an episode that made {row.num_calls}")
    columns = {
        name: [None if one.values is None else one.values.to_numpy() for one in column]
        if pa.types.is_list(column.type)
        else column.to_pylist()
        for name, column in zip(mine.column_names, mine.columns, strict=True)
    }
    return [{name: values[i] for name, values in columns.items()} for i in range(len(mine))]


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
    size = stored["num_sampled"]
    start = len(path) - size
    if size < 0 or start < 0:
        raise ValueError("a completion is longer than its call")
    floats = {name: _of_size(stored[name], size) for name in FLOATS_OF_CALL}
    if stored["advantages"] is None and stored["advantage"] is not None:
        floats["advantages"] = np.full(size, stored["advantage"], np.float32)
    measures = {name: np.array(each, np.float32) for name, each in stored["measures"] or ()}
    ratio = np.exp(floats["trainer_logprobs"] - floats["sampler_logprobs"])
    follows = np.minimum(ratio, np.float32(np.nan if cap is None else cap))
    return CallRecord(
        path=path,
        start=start,
        prompt_ids=ids[path[:start]],
        completion_ids=ids[path[start:]],
        in_loss=stored["trainer_logprobs"] is not None,
        weights=measures.pop(IMPORTANCE, follows),
        measures=measures,
        **{name: stored[name] for name in AS_STORED},
        **floats,
    )


def _of_size(values: np.ndarray | None, size: int) -> np.ndarray:
    values = np.full(size, np.nan, np.float32) if values is None else values
    if len(values) != size:
        raise ValueError(f"a call has {len(values)} values for {size} tokens")
    return values
