"""Nodes at which calls begin, of the token tree or of states that the agent names, and who came to
each of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from agentrl.types import Sample
from kernels.tree import build_tree


def nearest_others(samples: Sequence[Sample], states: bool = False) -> Iterator[list[int]]:
    """For each call of one agent in a group, the other episodes that came to its node; where there
    are none, those that came to the nearest node above.

    A call's node is the last token of its prompt; all came to what is above the first. With states
    it is ``call.state``, and above it are the earlier states of its own episode.
    """
    paths = list(_state_paths(samples) if states else _token_paths(samples))
    episodes, own = np.unique([sample.episode for sample in samples], return_inverse=True)
    passes = np.zeros((len(episodes), 1 + max(path.max() for path, _ in paths)), bool)
    for i, (path, _) in zip(own, paths, strict=True):
        passes[i, path] = True
    for i, (path, begin) in zip(own, paths, strict=True):
        # How far along its way each of the others was met last.
        met = (passes[:, path[:begin]] * np.arange(1, begin + 1)).max(1, initial=0)
        is_nearest = met == np.delete(met, i).max(initial=0)
        is_nearest[i] = False
        yield episodes[is_nearest].tolist()


def _token_paths(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, int]]:
    """Of each call the nodes on its way, and how many of them lead to where it begins."""
    paths = build_tree([sample.call.ids for sample in samples]).index
    return ((path, len(s.call.prompt_ids)) for path, s in zip(paths, samples, strict=True))


def _state_paths(samples: Sequence[Sample]) -> Iterator[tuple[np.ndarray, int]]:
    numbers: dict[str | None, int] = {}
    came: defaultdict[int | None, list[int]] = defaultdict(list)
    for sample in samples:
        path = came[sample.episode]
        path.append(numbers.setdefault(sample.call.state, len(numbers)))
        yield np.array(path), len(path)
