"""Trie over token ids: built by sorting, and cut so that sequences share one within a budget.

Sorted sequences visit their trie depth-first, and two neighbours meet in the tree at their longest
common prefix. So sorting is the whole algorithm: no dictionaries, no Python per token.

Of a token's children the heaviest comes first. Then the longest runs of tokens that follow their
parent are as long as they can be, and attention finds its keys side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A depth-first trie of T tokens. All arrays are int32 of shape [T]; see ``kernels.tree``."""

    ids: np.ndarray
    depth: np.ndarray
    parent: np.ndarray
    end: np.ndarray
    index: list[np.ndarray]
    """index[s][t] is the tree position of token t of sequence s."""

    def __len__(self) -> int:
        return len(self.ids)


def build_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """Merge sequences of token ids into one tree; a prefix that several share stands in it once.

    >>> tree = build_tree([[5, 6, 7], [5, 6, 8, 9], [5, 6]])
    >>> tree.ids.tolist(), tree.parent.tolist(), tree.end.tolist()
    ([5, 6, 8, 9, 7], [-1, 0, 1, 2, 1], [5, 5, 4, 4, 5])
    >>> [positions.tolist() for positions in tree.index]
    [[0, 1, 4], [0, 1, 2, 3], [0, 1]]
    """
    arrays = _as_arrays(sequences)
    visits = list(_depth_first(arrays))
    size = sum(len(arrays[s]) - shared for s, shared in visits)
    ids, depth, parent, end = (np.empty(size, np.int32) for _ in range(4))
    index: list[np.ndarray] = [np.empty(0, np.int32)] * len(arrays)
    # The tree position of the current sequence's token at each depth.
    path = np.empty(max(map(len, arrays), default=0), np.int32)
    now = length = 0
    for s, shared in visits:
        tokens = arrays[s]
        end[path[shared:length]] = now
        length = len(tokens)
        new = slice(now, now + length - shared)
        ids[new] = tokens[shared:]
        depth[new] = np.arange(shared, length)
        path[shared:length] = np.arange(new.start, new.stop)
        parent[new] = path[shared:length] - 1
        if shared < length:
            parent[now] = path[shared - 1] if shared else -1
        index[s] = path[:length].copy()
        now = new.stop
    end[path[:length]] = now
    return TokenTree(ids, depth, parent, end, index)


def cut(sequences: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Split sequences into lists of indices whose trees have at most ``budget`` tokens each.

    Neighbours in the tree stay together; a tree that begins below the root repeats the ancestors it
    needs. A single sequence longer than the budget gets a tree of its own.

    >>> cut([[1, 2, 3], [9, 9], [1, 2, 4]], budget=4)
    [[0, 2], [1]]
    """
    arrays = _as_arrays(sequences)
    pieces: list[list[int]] = []
    room = 0
    for s, shared in _depth_first(arrays):
        added = len(arrays[s]) - shared
        if not pieces or added > room:
            pieces.append([])
            room, added = budget, len(arrays[s])
        pieces[-1].append(s)
        room -= added
    return pieces


def _as_arrays(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.asarray(sequence, dtype=np.int32) for sequence in sequences]


def _depth_first(arrays: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield sequences by index, depth-first, each with the prefix it shares with the one before."""
    previous = np.empty(0, np.int32)
    for s in _heaviest_first(arrays):
        yield s, common_prefix_length(previous, arrays[s])
        previous = arrays[s]


@dataclass
class _Fork:
    """A prefix that is open while the sorted sequences pass through it."""

    depth: int
    ending: list[int] = field(default_factory=list)
    """The sequences that end here."""
    children: list[tuple[int, list[int]]] = field(default_factory=list)
    """How many tokens hang below by each way on, and the sequences that take it."""


def _heaviest_first(arrays: list[np.ndarray]) -> list[int]:
    # Big-endian bytes compare like the token ids that they hold.
    keys = [array.astype(">u4").tobytes() for array in arrays]
    open_forks, previous = [_Fork(0)], np.empty(0, np.int32)
    for s in sorted(range(len(arrays)), key=keys.__getitem__):
        _close(open_forks, common_prefix_length(previous, arrays[s]))
        if open_forks[-1].depth < len(arrays[s]):
            open_forks.append(_Fork(len(arrays[s])))
        open_forks[-1].ending.append(s)
        previous = arrays[s]
    _close(open_forks, 0)
    return _in_order(open_forks[0])


def _close(open_forks: list[_Fork], depth: int) -> None:
    """Hand what lies deeper than ``depth`` to the forks that it hangs from."""
    while open_forks[-1].depth > depth:
        fork = open_forks.pop()
        if open_forks[-1].depth < depth:
            open_forks.append(_Fork(depth))
        below = fork.depth - open_forks[-1].depth + sum(tokens for tokens, _ in fork.children)
        open_forks[-1].children.append((below, _in_order(fork)))


def _in_order(fork: _Fork) -> list[int]:
    heaviest_first = sorted(fork.children, key=lambda child: -child[0])
    return fork.ending + [s for _, sequences in heaviest_first for s in sequences]


def common_prefix_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
