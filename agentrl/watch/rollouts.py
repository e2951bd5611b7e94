"""Episodes on disk, token by token: ``rollouts/step-00012.npz``, one file a step.

Prompts of one episode repeat each other, so stored call by call they would grow with the square of
the turns. Here all calls of a step are one token tree; a call is the path that ends at its leaf.

    ids, parent     the tree (see ``kernels.tree``)
    leaf            of each call, the tree position of its last token
    completion      of each call, how many tokens at the end of that path were sampled
    logprobs        of all completions, one after the other
    episodes        JSON (as bytes): the episodes in order, each with its calls' other fields

``load(run)`` puts the episodes together again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.types import Call, Episode, Group, Sample
from kernels.tree import build_tree


@dataclass(frozen=True)
class Step:
    """The episodes of one training step, each a dict.

    Fields: task_id, episode, status, error, reward (a number, or a dict by agent), success,
    metrics, seconds, and calls, each with agent, advantage (None where it was not trained),
    prompt_ids, completion_ids, logprobs, finish_reason, under_grammar.
    """

    step: int
    episodes: list[dict[str, Any]]


def save(folder: Path, step: int, groups: Sequence[Group], samples: Sequence[Sample]) -> Path:
    """Write one step's episodes, the failed ones too, and return the file."""
    # A call that was not trained has no advantage.
    advantages = {id(sample.call): sample.advantage for sample in samples}
    episodes = [episode for group in groups for episode in group.episodes]
    calls = [call for episode in episodes for call in episode.calls]
    tree = build_tree([call.ids for call in calls])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:05d}.npz"
    np.savez_compressed(
        path,
        ids=tree.ids,
        parent=tree.parent,
        leaf=np.array([path[-1] for path in tree.index], np.int32),
        completion=np.array([len(call.completion_ids) for call in calls], np.int32),
        logprobs=np.array([p for call in calls for p in call.logprobs], np.float32),
        episodes=np.frombuffer(
            json.dumps([_describe(episode, advantages) for episode in episodes]).encode(), np.uint8
        ),
    )
    return path


def load(run: str | Path) -> Iterator[Step]:
    """Yield the steps of a run's folder in order, each read when it is asked for.

    Raises ValueError where the folder holds no rollouts.
    """
    files = sorted((Path(run) / "rollouts").glob("step-*.npz"))
    if not files:
        raise ValueError(f"{run} has no rollouts/step-*.npz: is it the folder of a run?")
    for file in files:
        yield Step(int(file.stem.partition("-")[2]), _read(file))


def _describe(episode: Episode, advantages: dict[int, float]) -> dict[str, Any]:
    return {
        "task_id": episode.task["id"],
        "episode": episode.index,
        "status": episode.status,
        "error": episode.error,
        "reward": episode.reward,
        "success": episode.success,
        "metrics": episode.metrics,
        "seconds": round(episode.seconds, 4),
        "calls": [_describe_call(call, advantages.get(id(call))) for call in episode.calls],
    }


def _describe_call(call: Call, advantage: float | None) -> dict[str, Any]:
    return {
        "agent": call.agent,
        "advantage": advantage,
        "finish_reason": call.finish_reason,
        "under_grammar": call.under_grammar,
    }


def _read(file: Path) -> list[dict[str, Any]]:
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ids, parent = arrays["ids"].tolist(), arrays["parent"].tolist()
    episodes = json.loads(arrays["episodes"].tobytes())
    logprobs = np.split(arrays["logprobs"], np.cumsum(arrays["completion"]))[:-1]
    calls = [call for episode in episodes for call in episode["calls"]]
    for call, leaf, completion, scores in zip(
        calls, arrays["leaf"].tolist(), arrays["completion"].tolist(), logprobs, strict=True
    ):
        path = _path(ids, parent, leaf)
        start = len(path) - completion
        call.update(prompt_ids=path[:start], completion_ids=path[start:], logprobs=scores.tolist())
    return episodes


def _path(ids: list[int], parent: list[int], leaf: int) -> list[int]:
    path = []
    while leaf >= 0:
        path.append(ids[leaf])
        leaf = parent[leaf]
    return path[::-1]
