import numpy as np
import pytest

from kernels.tree import build_tree, cut
from tests.support.trees import random_sequences


def distinct_prefixes(sequences) -> int:
    return len({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})


def test_a_conversation_and_its_fork():
    first_call = [1, 2, 3]
    second_call = [1, 2, 3, 4, 5]
    forked = [1, 2, 9]
    tree = build_tree([first_call, second_call, forked])
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 9]
    assert tree.depth.tolist() == [0, 1, 2, 3, 4, 2]
    assert tree.parent.tolist() == [-1, 0, 1, 2, 3, 1]
    assert tree.end.tolist() == [6, 6, 5, 5, 5, 6]
    assert [path.tolist() for path in tree.index] == [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 5]]


def test_several_roots_and_duplicates():
    tree = build_tree([[7, 8], [5], [7, 8], [5, 6]])
    assert tree.ids.tolist() == [5, 6, 7, 8]
    assert tree.parent.tolist() == [-1, 0, -1, 2]
    assert tree.end.tolist() == [2, 2, 4, 4]
    assert tree.index[0].tolist() == tree.index[2].tolist() == [2, 3]


@pytest.mark.parametrize("seed", range(200))
def test_random_forests_against_brute_force(seed):
    sequences = random_sequences(seed)
    tree = build_tree(sequences)
    assert len(tree) == distinct_prefixes(sequences)
    for sequence, path in zip(sequences, tree.index, strict=True):
        assert tree.ids[path].tolist() == sequence
        assert tree.depth[path].tolist() == list(range(len(sequence)))
        assert tree.parent[path].tolist() == [-1, *path[:-1].tolist()]
    for i in range(len(tree)):
        ancestors = {i}
        while tree.parent[min(ancestors)] >= 0:
            ancestors.add(int(tree.parent[min(ancestors)]))
        assert {j for j in range(len(tree)) if j <= i < tree.end[j]} == ancestors


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("budget", [1, 12, 30])
def test_pieces_cover_all_and_fit(seed, budget):
    sequences = random_sequences(seed)
    pieces = cut(sequences, budget)
    assert sorted(s for piece in pieces for s in piece) == list(range(len(sequences)))
    for piece in pieces:
        size = distinct_prefixes([sequences[s] for s in piece])
        alone = len({tuple(sequences[s]) for s in piece}) == 1 or all(
            sequences[piece[-1]][: len(sequences[s])] == sequences[s] for s in piece
        )
        assert size <= budget or alone


def test_inputs_are_not_written_to():
    sequences = [np.array([3, 1], np.int32), np.array([3, 2], np.int32)]
    tree = build_tree(sequences)
    tree.ids[:] = 0
    assert [s.tolist() for s in sequences] == [[3, 1], [3, 2]]
