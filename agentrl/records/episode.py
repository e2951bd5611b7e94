"""One episode as it is read: its row in the index, its tokens as a tree, its calls."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agentrl.records.piece import Piece, StoredCall
from agentrl.types import Reward

COLUMNS = (
    *("step", "task_id", "episode", "place", "held_out", "status", "error", "reward", "rewards"),
    *("success", "metrics", "milliseconds", "num_calls", "num_tokens", "num_trained"),
)
"""What of the index an EpisodeRow is made from."""


@dataclass(frozen=True, kw_only=True)
class EpisodeRow:
    """What the index knows of an episode."""

    step: int
    task_id: str
    episode: int
    """Its number in its group."""
    place: int
    """Of its group in the step: tells two groups of one task apart."""
    held_out: bool
    """Drawn by the step's evaluation, after the step."""
    status: str
    error: str | None
    reward: Reward | None
    success: bool | None
    metrics: dict[str, float]
    seconds: float
    num_calls: int
    num_tokens: int
    """Tree tokens, each counted once."""
    num_trained: int
    """Loss terms: a token that several calls sampled counts for each."""

    @property
    def where(self) -> tuple[int, int, int]:
        """Its key, which is its place in the order of all."""
        return self.step, self.place, self.episode

    @property
    def mean_reward(self) -> float | None:
        if isinstance(self.reward, dict):
            return sum(self.reward.values()) / len(self.reward)
        return self.reward


@dataclass(frozen=True, eq=False, kw_only=True)
class CallRecord:
    """One call, as a path of its episode's tree. Arrays have a value a completion token."""

    agent: str
    path: np.ndarray
    """Tree positions, from the root to the last token of the completion."""
    start: int
    """Where on the path the completion begins."""
    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    finish_reason: str
    under_grammar: bool
    why_forked: str | None
    """Where it leaves the tokens of the calls before it: why (see ``agentrl.records.forks``)."""
    in_loss: bool
    advantage: float | None
    """None where it was not trained."""
    sampler_logprobs: np.ndarray
    trainer_logprobs: np.ndarray
    entropies: np.ndarray
    weights: np.ndarray
    """These three are NaN where it was not trained."""

    @property
    def leaf(self) -> int:
        return int(self.path[-1])


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeRecord:
    """One episode's token tree, depth-first, and its calls in order.

    Arrays are of length T. Where several calls sampled one token, they show the first call that was
    in the loss; the calls have each their own. NaN where there is no value.
    """

    row: EpisodeRow
    ids: np.ndarray
    parent: np.ndarray
    """-1 at a root."""
    depth: np.ndarray
    in_loss: np.ndarray
    sampler_logprob: np.ndarray
    trainer_logprob: np.ndarray
    entropy: np.ndarray
    advantage: np.ndarray
    weight: np.ndarray
    calls: list[CallRecord]


def row_of(stored: tuple, metric_names: Mapping[int, str]) -> EpisodeRow:
    """stored: COLUMNS."""
    values = dict(zip(COLUMNS, stored, strict=True))
    by_agent, metrics = values.pop("rewards"), json.loads(values.pop("metrics") or "{}")
    success, milliseconds = values.pop("success"), values.pop("milliseconds")
    return EpisodeRow(
        **{
            **values,
            "held_out": bool(values["held_out"]),
            "reward": json.loads(by_agent) if by_agent else values["reward"],
            "success": None if success is None else bool(success),
            "metrics": {metric_names[int(n)]: _float(value) for n, value in metrics.items()},
            "seconds": milliseconds / 1000,
        }
    )


def _float(value: float | int | None) -> float:
    """JSON has no number for what is none."""
    return math.nan if value is None else float(value)


def record_of(row: EpisodeRow, piece: Piece, number: int) -> EpisodeRecord:
    """The part of a piece's tree that is one episode's; number: the episode's in the piece."""
    stored = [call for call in piece.calls if call.episode == number]
    paths = [piece.path(call) for call in stored]
    belongs = np.zeros(len(piece.ids), bool)
    for path in paths:
        belongs[path] = True
    positions = belongs.nonzero()[0]
    # An ancestor of what belongs belongs, too; and the order stays depth-first.
    parent = piece.parent[positions]
    place = np.searchsorted(positions, parent)
    ids = piece.ids[positions]
    calls = [
        _call(call, np.searchsorted(positions, path), ids)
        for call, path in zip(stored, paths, strict=True)
    ]
    return EpisodeRecord(
        row=row,
        ids=ids,
        parent=np.where(parent < 0, -1, place).astype(np.int32),
        depth=piece.depth[positions],
        calls=calls,
        **_shown(calls, len(ids)),
    )


def _call(call: StoredCall, path: np.ndarray, ids: np.ndarray) -> CallRecord:
    nothing = np.full(len(call.sampler_logprobs), np.nan, np.float32)
    loss = call.trained
    return CallRecord(
        agent=call.agent,
        path=path.astype(np.int32),
        start=call.start,
        prompt_ids=ids[path[: call.start]],
        completion_ids=ids[path[call.start :]],
        finish_reason=call.finish_reason,
        under_grammar=call.under_grammar,
        why_forked=call.why_forked,
        in_loss=loss is not None,
        advantage=None if loss is None else loss.advantage,
        sampler_logprobs=call.sampler_logprobs,
        trainer_logprobs=nothing if loss is None else loss.trainer_logprobs,
        entropies=nothing if loss is None else loss.entropies,
        weights=nothing if loss is None else loss.weights,
    )


def _shown(calls: list[CallRecord], size: int) -> dict[str, np.ndarray]:
    """What a token shows: of its calls, the first that was in the loss, else the first of all."""
    shown = {
        name: np.full(size, np.nan, np.float32)
        for name in ("sampler_logprob", "trainer_logprob", "entropy", "advantage", "weight")
    }
    in_loss = np.zeros(size, bool)
    # What is written last is what shows.
    for call in sorted(reversed(calls), key=lambda call: call.in_loss):
        at = call.path[call.start :]
        shown["sampler_logprob"][at] = call.sampler_logprobs
        if call.in_loss:
            in_loss[at] = True
            shown["trainer_logprob"][at] = call.trainer_logprobs
            shown["entropy"][at] = call.entropies
            shown["advantage"][at] = call.advantage
            shown["weight"][at] = call.weights
    return {"in_loss": in_loss, **shown}
