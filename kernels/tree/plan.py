"""Plan of attention over one token tree, worked out once for all layers and heads.

Three views of the same mask ``j <= i < end[j]``:

    blocks    which tiles of the T x T square are empty, full or mixed, for a kernel over tiles
    runs      stretches of tokens that each follow their parent: causal inside, and all of
              their first token's ancestors in sight
    end       the mask itself
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.tree.trie import TokenTree


class Blocks(NamedTuple):
    """The tiles that are not empty, of ``size_q`` queries by ``size_k`` keys; int32.

    Forward and dQ walk a list of key blocks for each query block. The queries that see a key block
    are neighbours, so dK and dV walk ranges: ``[first, full_first)`` mixed, ``[full_first,
    full_stop)`` full, ``[full_stop, stop)`` mixed.
    """

    size_q: int
    size_k: int
    key_block: Tensor
    """The lists of all query blocks, one after the other; in each the full ones come first."""
    list_start: Tensor
    """[NQ + 1] where the list of each query block starts."""
    list_mixed: Tensor
    """[NQ] where its mixed blocks start."""
    query_order: Tensor
    """[NQ] the query blocks, those with the longest lists first."""
    first: Tensor
    full_first: Tensor
    full_stop: Tensor
    stop: Tensor
    """[NK] the ranges of query blocks that see each key block."""
    key_order: Tensor
    """[NK] the key blocks, those with the longest ranges first."""


@dataclass(frozen=True)
class Chain:
    """Tokens ``[start, stop)``, each the child of the one before, and the root path above."""

    start: int
    stop: int
    above: tuple[tuple[int, int], ...]
    """The ancestors of the first, as stretches of the tree, from the root."""


@dataclass(frozen=True, eq=False)
class TreePlan:
    """A tree's mask on a device; its views are made when they are first asked for."""

    end: Tensor
    """int32 [T]; see ``kernels.tree``."""
    _tree_end: np.ndarray
    _tree_parent: np.ndarray
    _made: dict[Any, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._tree_end)

    @property
    def device(self) -> torch.device:
        return self.end.device

    @property
    def tensors(self) -> tuple[Tensor, dict]:
        """What lies on the device: the mask, and all that has been made of it."""
        return self.end, self._made

    def with_tensors(self, tensors: tuple[Tensor, dict]) -> "TreePlan":
        """The same plan, with its tensors on another device."""
        end, made = tensors
        return replace(self, end=end, _made=made)

    def blocks(self, size_q: int, size_k: int) -> Blocks:
        """The tiles for a kernel with blocks of these sizes."""
        return self.once(("blocks", size_q, size_k), lambda: self._blocks(size_q, size_k))

    @cached_property
    def runs(self) -> list[Chain]:
        return _runs(self._tree_parent)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest root path."""
        return max(sum(b - a for a, b in (*r.above, (r.start, r.stop))) for r in self.runs)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once for this plan; for what one kernel derives from it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _blocks(self, size_q: int, size_k: int) -> Blocks:
        arrays = _find_blocks(self._tree_end, size_q, size_k)
        on_device = {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}
        return Blocks(size_q, size_k, **on_device)


def plan(tree: TokenTree, device: torch.device | str = "cpu") -> TreePlan:
    """Plan attention over a tree."""
    return TreePlan(torch.from_numpy(tree.end).to(device), tree.end, tree.parent)


def _find_blocks(end: np.ndarray, size_q: int, size_k: int) -> dict[str, np.ndarray]:
    """The fields of ``Blocks``."""
    tokens = len(end)
    q_first = np.arange(0, tokens, size_q)
    q_stop = np.minimum(q_first + size_q, tokens)
    k_first = np.arange(0, tokens, size_k)
    k_stop = np.minimum(k_first + size_k, tokens)
    most, least = (f.reduceat(end, k_first) for f in (np.maximum, np.minimum))
    # A key block is seen by the query blocks from its own to the one its furthest subtree ends in,
    # and wholly seen from where it is past to where its nearest subtree ends.
    first, stop = k_first // size_q, -(-most // size_q)
    full_first = np.minimum(-(-(k_stop - 1) // size_q), stop)
    last_whole = np.searchsorted(q_stop, least, side="right")
    full_stop = np.clip(last_whole, full_first, stop)
    # The last key block may be shorter than a tile: its rows beyond the end need the mask.
    full_stop = np.where(k_first + size_k <= tokens, full_stop, full_first)
    # Every tile that is not empty, key block by key block.
    counts = stop - first
    k = np.repeat(np.arange(len(k_first)), counts)
    q = np.arange(len(k)) - np.repeat(counts.cumsum() - counts - first, counts)
    is_mixed = (q < full_first[k]) | (q >= full_stop[k])
    place = 2 * q + is_mixed
    # numpy sorts the narrowest integers in linear time.
    by_query = np.argsort(place.astype(np.min_scalar_type(2 * len(q_first))), kind="stable")
    lengths = np.bincount(q, minlength=len(q_first))
    num_full = np.bincount(q[~is_mixed], minlength=len(q_first))
    list_start = np.concatenate([[0], lengths.cumsum()])
    fields = {
        "key_block": k[by_query],
        "list_start": list_start,
        "list_mixed": list_start[:-1] + num_full,
        "query_order": np.argsort(-lengths, kind="stable"),
        "first": first,
        "full_first": full_first,
        "full_stop": full_stop,
        "stop": stop,
        "key_order": np.argsort(-counts, kind="stable"),
    }
    return {name: array.astype(np.int32) for name, array in fields.items()}


def _runs(parent: np.ndarray) -> list[Chain]:
    starts = np.concatenate([[0], (parent[1:] != np.arange(len(parent) - 1)).nonzero()[0] + 1])
    stops = [*starts[1:].tolist(), len(parent)]
    run_of_parent = np.searchsorted(starts, parent[starts], side="right") - 1
    runs: list[Chain] = []
    for start, stop, i in zip(starts.tolist(), stops, run_of_parent.tolist(), strict=True):
        above = ()
        if parent[start] >= 0:
            upper = runs[i]
            above = _joined(upper.above, (upper.start, int(parent[start]) + 1))
        runs.append(Chain(start, stop, above))
    return runs


def _joined(
    stretches: tuple[tuple[int, int], ...], last: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Stretches of the tree and one more, as one where they touch."""
    if stretches and stretches[-1][1] == last[0]:
        return (*stretches[:-1], (stretches[-1][0], last[1]))
    return (*stretches, last)
