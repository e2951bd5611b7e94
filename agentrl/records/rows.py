"""Rows of the two files, made from a step's episodes: see ``schema``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

import numpy as np

from agentrl.records.forks import find_forks
from agentrl.records.scores import CallKey, Row, rounded
from agentrl.types import Call, Episode, Group
from kernels.tree import build_tree

BLOCK_TOKENS = 4096
"""Smaller groups share a block: the prompts that they have in common stand there once."""


def rows_of(
    groups: Sequence[Group], of_calls: Mapping[CallKey, Row], first_group: int
) -> tuple[list[Row], list[Row]]:
    """Rows of blocks, and of episodes without the step.

    of_calls: what calls have as samples. first_group: the number that the first group gets.
    """
    blocks, episodes = [], []
    for block in gathered(list(enumerate(groups)), _num_tokens, BLOCK_TOKENS):
        numbered = [(g, e, one) for g, group in block for e, one in enumerate(group.episodes)]
        tree = build_tree([call.ids for *_, episode in numbered for call in episode.calls])
        index, calls = iter(tree.index), []
        for g, e, episode in numbered:
            paths = [next(index) for _ in episode.calls]
            key = {"group": first_group + g, "episode": e}
            rows = enumerate(_call_rows(episode, paths))
            own = [key | row | of_calls.get((g, e, c), {}) for c, row in rows]
            key |= {"task_id": _text(str(groups[g].task["id"])), "block": len(blocks)}
            episodes.append(key | _episode_row(episode, paths, own))
            calls += own
        blocks.append({"ids": tree.ids, "parents": tree.parent, "calls": calls})
    return blocks, episodes


def gathered(items: Sequence, size: Callable[..., int], least: int) -> Iterator[list]:
    """Neighbours together, until they are large enough.

    >>> list(gathered([3, 1, 1, 5, 1], size=int, least=4))
    [[3, 1], [1, 5], [1]]
    """
    together = []
    for item in items:
        together.append(item)
        if sum(map(size, together)) >= least:
            yield together
            together = []
    if together:
        yield together


def _num_tokens(numbered: tuple[int, Group]) -> int:
    """About so many in its tree."""
    calls = [call for episode in numbered[1].episodes for call in episode.calls]
    longest = max((len(call.prompt_ids) for call in calls), default=0)
    return longest + sum(len(call.completion_ids) for call in calls)


def _episode_row(episode: Episode, paths: Sequence[np.ndarray], calls: Sequence[Row]) -> Row:
    return {
        "status": episode.status,
        "error": _text(episode.error),
        "reward": episode.mean_reward,
        "rewards": _named(episode.reward) if isinstance(episode.reward, dict) else None,
        "success": episode.success,
        "parts": _named(episode.parts) or None,
        "metrics": _named(episode.metrics),
        "seconds": rounded(episode.seconds),
        "num_calls": len(episode.calls),
        "num_tokens": len(np.unique(np.concatenate(paths))) if paths else 0,
        "num_trained": sum(len(call.get("trainer_logprobs", ())) for call in calls),
    }


def _call_rows(episode: Episode, paths: Sequence[np.ndarray]) -> Iterator[Row]:
    """Without the numbers of the episode."""
    forks = find_forks(episode.calls, paths)
    causes = {fork.call: f"{fork.kind}: {fork.why}" for fork in forks}
    for c, (call, path) in enumerate(zip(episode.calls, paths, strict=True)):
        yield {
            "call": c,
            "agent": _text(call.agent),
            "finish_reason": _text(call.finish_reason),
            "under_grammar": call.under_grammar,
            "state": _text(call.state),
            "observation": _text(_shown(call)) if "env" in episode.task else None,
            "reward": call.reward,
            "why_forked": _text(causes.get(c)),
            "leaf": path[-1] if len(path) else -1,
            "num_sampled": len(call.completion_ids),
            "sampler_logprobs": np.asarray(call.logprobs, np.float32),
        }


def _shown(call: Call) -> str:
    """What was said since the agent's last answer, which is what it saw of its world."""
    others = takewhile(lambda message: message["role"] != "assistant", reversed(call.messages))
    return "\n".join(str(message["content"]) for message in reversed([*others]))


def _named(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(_text(name), float(number)) for name, number in numbers.items()]


def _text(value: str | None) -> str | None:
    """Half a surrogate pair, which Python's text may hold, is no text on the disk."""
    return None if value is None else value.encode(errors="replace").decode()
