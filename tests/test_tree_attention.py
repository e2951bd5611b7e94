import pytest
import torch
import torch.nn.functional as F

from kernels.tree import build_tree
from kernels.tree_attention import blocked, reference, tree_attention
from tests.test_tree import random_sequences


def inputs(tokens: int, heads: int, kv_heads: int, dim: int, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(tokens, heads, dim), (tokens, kv_heads, dim), (tokens, kv_heads, dim)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_token_sees_what_it_would_see_in_its_own_sequence(seed):
    sequences = random_sequences(seed)
    tree = build_tree(sequences)
    q, k, v = inputs(len(tree), heads=4, kv_heads=2, dim=8)
    out = tree_attention(q, k, v, torch.from_numpy(tree.end), 0.3)
    for path in tree.index:
        rows = [x[torch.from_numpy(path).long()].transpose(0, 1)[None] for x in (q, k, v)]
        alone = F.scaled_dot_product_attention(*rows, is_causal=True, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(out[path], alone[0].transpose(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocked_equals_reference_with_gradients(block, heads, kv_heads):
    sequences = [[0] * 20 + s for seed in range(6) for s in random_sequences(seed)]
    end = torch.from_numpy(build_tree(sequences).end)
    q, k, v = inputs(len(end), heads, kv_heads, dim=8)
    seen = torch.randn_like(q)
    fast = blocked(q, k, v, end, 0.3, block=block)
    slow = reference(q, k, v, end, 0.3)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(fast, (q, k, v), seen),
        torch.autograd.grad(slow, (q, k, v), seen),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_a_plain_causal_mask_would_be_noticed():
    end = torch.from_numpy(build_tree([[1, 2, 3], [1, 4, 5]]).end)
    q, k, v = inputs(5, 2, 2, 8)
    causal = torch.full_like(end, 5)
    difference = tree_attention(q, k, v, end, 0.3) - tree_attention(q, k, v, causal, 0.3)
    assert difference[:3].abs().max() == 0
    assert difference[3:].abs().max() > 0.1


def test_shapes_that_do_not_belong_together():
    q, k, v = inputs(5, 4, 2, 8)
    end = torch.full((5,), 5)
    with pytest.raises(ValueError, match="another tree"):
        tree_attention(q, k, v, end[:4], 0.3)
    with pytest.raises(ValueError, match=r"\(5, 4, 8\) does not fit k \(4, 2, 8\)"):
        tree_attention(q, k[:4], v[:4], end, 0.3)
