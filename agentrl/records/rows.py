"""Rows of the two files, made from a step's episodes: see ``schema``."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agentrl.records.forks import Decode, find_forks
from agentrl.records.scores import CallKey, Row
from agentrl.types import Episode, Group
from kernels.tree import build_tree

BLOCK_TOKENS = 4096
"""Smaller groups share a block: the prompts that they have in common stand there once."""


def rows_of(
    groups: Sequence[Group],
    of_calls: Mapping[CallKey, Row],
    first_group: int,
    decode: Decode,
) -> tuple[list[Row], list[Row]]:
    """Rows of blocks, and of episodes without the step.

    of_calls: what calls have as samples. first_group: the number that the first group gets; decode:
    token ids to text.
    """
    blocks, episodes = [], []
    for block in _blocks(groups):
        tree = build_tree([call.ids for *_, episode in block for call in episode.calls])
        index, calls = iter(tree.index), []
        for g, e, episode in block:
            paths = [next(index) for _ in episode.calls]
            key = {"group": first_group + g, "episode": e}
            own = list(_call_rows(episode, paths, decode))
            own = [key | row | of_calls.get((g, e, c), {}) for c, row in enumerate(own)]
            key |= {"task_id": _text(str(groups[g].task["id"])), "block": len(blocks)}
            episodes.append(key | _episode_row(episode, paths, own))
            calls += own
        blocks.append({"ids": tree.ids, "parents": tree.parent, "calls": calls})
    return blocks, episodes


def _blocks(groups: Sequence[Group]) -> Iterator[list[tuple[int, int, Episode]]]:
    """Episodes that make a block together, numbered: a group's, or several small groups'."""
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


def _episode_row(episode: Episode, paths: Sequence[np.ndarray], calls: Sequence[Row]) -> Row:
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
        "num_trained": sum(len(call.get("trainer_logprobs", ())) for call in calls),
    }


def _call_rows(episode: Episode, paths: Sequence[np.ndarray], decode: Decode) -> Iterator[Row]:
    """Without the numbers of the episode."""
    forks = find_forks(episode.calls, paths, decode)
    causes = {fork.call: f"{fork.kind}: {fork.why}" for fork in forks}
    for c, (call, path) in enumerate(zip(episode.calls, paths, strict=True)):
        yield {
            "call": c,
            "agent": _text(call.agent),
            "finish_reason": _text(call.finish_reason),
            "under_grammar": call.under_grammar,
            "why_forked": _text(causes.get(c)),
            "leaf": path[-1] if len(path) else -1,
            "num_sampled": len(call.completion_ids),
            "sampler_logprobs": np.asarray(call.logprobs, np.float32),
        }


def _named(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(_text(name), float(number)) for name, number in numbers.items()]


def _text(value: str | None) -> str | None:
    """Half a surrogate pair, which Python's text may hold, is no text on the disk."""
    return None if value is None else value.encode(errors="replace").decode()
