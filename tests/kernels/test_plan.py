"""The views of a tree's mask against the mask itself, by brute force."""

import numpy as np
import pytest

from kernels.tree import TokenTree, build_tree
from kernels.tree.plan import plan
from tests.support.trees import random_tree


def mask_of(tree: TokenTree) -> np.ndarray:
    i = np.arange(len(tree))
    return (i[None] <= i[:, None]) & (i[:, None] < tree.end[None])


@pytest.mark.parametrize(
    ("sizes", "num_trees"),
    [((1, 1), 15), *((sizes, 40) for sizes in ((4, 4), (8, 4), (4, 8), (7, 3), (16, 16)))],
)
def test_blocks_against_brute_force(sizes, num_trees):
    size_q, size_k = sizes
    for seed in range(num_trees):
        tree = random_tree(seed)
        blocks, tokens = plan(tree).blocks(size_q, size_k), len(tree)
        num_q, num_k = -(-tokens // size_q), -(-tokens // size_k)
        # Keys beyond the last token are never seen; queries beyond it do not matter.
        mask = np.zeros((tokens, num_k * size_k), bool)
        mask[:, :tokens] = mask_of(tree)
        tiles = [
            [
                mask[q * size_q : (q + 1) * size_q, k * size_k : (k + 1) * size_k]
                for k in range(num_k)
            ]
            for q in range(num_q)
        ]
        key_block, list_start = blocks.key_block.tolist(), blocks.list_start.tolist()
        full_lists = []
        for q, mixed in enumerate(blocks.list_mixed.tolist()):
            full = [k for k in range(num_k) if tiles[q][k].all()]
            some = [k for k in range(num_k) if tiles[q][k].any() and k not in full]
            assert key_block[list_start[q] : mixed] == full
            assert key_block[mixed : list_start[q + 1]] == some
            full_lists.append(full)
        lengths = np.diff(list_start)
        assert sorted(blocks.query_order.tolist()) == list(range(num_q))
        assert (np.diff(lengths[blocks.query_order.numpy()]) <= 0).all()
        for k in range(num_k):
            ranges = [x[k].item() for x in (blocks.first, blocks.full_first)]
            stops = [x[k].item() for x in (blocks.stop, blocks.full_stop)]
            seen = [q for q in range(num_q) if tiles[q][k].any()]
            assert seen == list(range(ranges[0], stops[0]))
            full = [q for q in range(num_q) if k in full_lists[q]]
            assert full == list(range(ranges[1], stops[1]))
        counts = (blocks.stop - blocks.first)[blocks.key_order]
        assert (counts.diff() <= 0).all()


@pytest.mark.parametrize("seed", range(100))
def test_a_runs_first_token_sees_what_is_above_it(seed):
    tree = random_tree(seed)
    mask, covered = mask_of(tree), []
    for run in plan(tree).runs:
        above = [j for start, stop in run.above for j in range(start, stop)]
        for i in range(run.start, run.stop):
            assert mask[i].nonzero()[0].tolist() == above + list(range(run.start, i + 1))
        covered += range(run.start, run.stop)
    assert covered == list(range(len(tree)))


def test_the_heaviest_child_comes_first():
    tree = build_tree([[1, 2], [1, 3, 4], [1, 5, 6, 7], [0]])
    assert tree.ids.tolist() == [1, 5, 6, 7, 3, 4, 2, 0]
    assert [(run.start, run.stop, run.above) for run in plan(tree).runs] == [
        (0, 4, ()),
        (4, 6, ((0, 1),)),
        (6, 7, ((0, 1),)),
        (7, 8, ()),
    ]


@pytest.mark.parametrize("seed", range(100))
def test_each_childs_subtree_is_no_lighter_than_the_next(seed):
    tree = random_tree(seed)
    weight = tree.end - np.arange(len(tree))
    for parent in range(-1, len(tree)):
        children = (tree.parent == parent).nonzero()[0]
        assert (np.diff(weight[children]) <= 0).all()


def test_a_block_too_many_would_be_noticed():
    """The causal square has tiles that no tree of two episodes has."""
    episodes = plan(build_tree([[1] * 32, [2] * 32])).blocks(8, 8)
    one = plan(build_tree([[1] * 64])).blocks(8, 8)
    assert (len(episodes.key_block), len(one.key_block)) == (20, 36)
