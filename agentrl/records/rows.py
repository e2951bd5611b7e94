"""Rows of the two files, made from a batch of episodes: see ``schema``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentrl.records.forks import find_forks
from agentrl.records.schema import IMPORTANCE
from agentrl.records.scores import Scores, Trained, importance_cap, trained
from agentrl.types import Episode, Group, Sample
from kernels.tree import build_tree

BLOCK_TOKENS = 4096
"""Smaller groups share a block: the prompts that they have in common stand there once."""
Row = dict[str, Any]
Numbered = tuple[int, int, Episode]
"""An episode, after the numbers of its group in the batch, and its own in the group."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The episodes of a step, or of its evaluation, and what was in the loss of them."""

    step: int
    groups: Sequence[Group]
    samples: Sequence[Sample] = ()
    scores: Sequence[Scores] = ()
    held_out: bool = False


def rows_of(
    batch: Batch, first_group: int, decode: Callable[[list[int]], str]
) -> tuple[list[Row], list[Row], float | None]:
    """Rows of blocks, rows of episodes, and the cap of the importance weights.

    first_group: the number that the first group gets. decode: token ids to text.
    """
    of_calls = trained(batch.groups, batch.samples, batch.scores)
    cap = importance_cap(of_calls.values())
    blocks, episodes = [], []
    for number, block in enumerate(_blocks(batch.groups)):
        tree = build_tree([call.ids for _, _, episode in block for call in episode.calls])
        index, calls = iter(tree.index), []
        for g, e, episode in block:
            paths = [next(index) for _ in episode.calls]
            parts = [of_calls.get((g, e, c)) for c in range(len(paths))]
            key = {"group": first_group + g, "episode": e}
            calls += [key | row for row in _call_rows(episode, paths, parts, cap, decode)]
            key |= {"step": batch.step, "held_out": batch.held_out, "block": number}
            key["task_id"] = _text(str(batch.groups[g].task["id"]))
            episodes.append(key | _episode_row(episode, paths, parts))
        blocks.append({"ids": tree.ids, "parents": tree.parent, "calls": calls})
    return blocks, episodes, cap


def _blocks(groups: Sequence[Group]) -> Iterator[list[Numbered]]:
    """Episodes that make a block together: a group's, or those of as many groups as are small."""
    block, num_tokens = [], 0
    for g, group in enumerate(groups):
        calls = [call for episode in group.episodes for call in episode.calls]
        block += [(g, e, episode) for e, episode in enumerate(group.episodes)]
        num_tokens += sum(len(call.completion_ids) for call in calls)
        num_tokens += max((len(call.prompt_ids) for call in calls), default=0)
        if num_tokens >= BLOCK_TOKENS:
            yield block
            block, num_tokens = [], 0
    if block:
        yield block


def _episode_row(
    episode: Episode, paths: Sequence[np.ndarray], parts: Sequence[Trained | None]
) -> Row:
    in_loss = [part.logprobs for part in parts if part is not None and part.logprobs is not None]
    return {
        "status": episode.status,
        "error": _text(episode.error),
        "reward": episode.mean_reward,
        "rewards": _named(episode.reward) if isinstance(episode.reward, dict) else None,
        "success": episode.success,
        "metrics": _named(episode.metrics),
        "seconds": round(episode.seconds, 3),
        "num_calls": len(episode.calls),
        "num_tokens": len(np.unique(np.concatenate(paths))) if paths else 0,
        "num_trained": sum(map(len, in_loss)),
    }


def _call_rows(
    episode: Episode,
    paths: Sequence[np.ndarray],
    parts: Sequence[Trained | None],
    cap: float | None,
    decode: Callable[[list[int]], str],
) -> Iterator[Row]:
    """Without the numbers of the episode."""
    forks = find_forks(episode.calls, paths, decode)
    causes = {fork.call: f"{fork.kind}: {fork.why}" for fork in forks}
    for c, (call, path, part) in enumerate(zip(episode.calls, paths, parts, strict=True)):
        yield {
            "call": c,
            "agent": _text(call.agent),
            "finish_reason": _text(call.finish_reason),
            "under_grammar": call.under_grammar,
            "why_forked": _text(causes.get(c)),
            "leaf": path[-1] if len(path) else -1,
            "num_sampled": len(call.completion_ids),
            "sampler_logprobs": np.asarray(call.logprobs, np.float32),
            **(_scored(part, cap) if part is not None else {}),
        }


def _scored(part: Trained, cap: float | None) -> Row:
    """What a sample has beside its call. cap: importance weights follow where there is one."""
    each = np.asarray(part.advantage, np.float64)
    measures = {n: v for n, v in part.measures.items() if n != IMPORTANCE or cap is None}
    return {
        "advantage": float(each.mean()),
        "advantages": each.astype(np.float32) if each.ndim else None,
        "trainer_logprobs": part.logprobs,
        "entropies": part.entropies,
        "measures": list(measures.items()) or None,
    }


def _named(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(_text(name), float(number)) for name, number in numbers.items()]


def _text(value: str | None) -> str | None:
    """Half a surrogate pair, which Python's text may hold, is no text on the disk."""
    return None if value is None else value.encode(errors="replace").decode()
