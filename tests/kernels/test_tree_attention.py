import sys

import pytest
import torch
import torch.nn.functional as F

from kernels.tree import build_tree
from kernels.tree.plan import plan
from kernels.tree_attention import choose, reference, segments, tree_attention
from tests.support.trees import inputs, largest_error, random_tree, with_gradients

SHAPES = {
    "one token": [[1]],
    "a chain": [list(range(1000))],
    "a star": [[0] * 30 + [i] for i in range(1, 60)],
    "single tokens": [[i] for i in range(33)],
    "several roots": [[i] * (40 * i) for i in range(1, 6)],
    "a long prompt": [[0] * 400 + [i] * 20 for i in range(1, 17)],
    "long episodes": [[0] * 20 + [i] * 350 for i in range(1, 5)],
    "forks of forks": [[0] * 50 + [i] * 50 + [j] * 60 for i in range(3) for j in range(3)],
}

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_token_sees_what_it_would_see_in_its_own_sequence(seed):
    tree = random_tree(seed)
    q, k, v = inputs(len(tree), heads=4, kv_heads=2, dim=8)
    out = tree_attention(q, k, v, plan(tree), 0.3)
    for path in tree.index:
        rows = [x[torch.from_numpy(path).long()].transpose(0, 1)[None] for x in (q, k, v)]
        alone = F.scaled_dot_product_attention(*rows, is_causal=True, scale=0.3, enable_gqa=True)
        torch.testing.assert_close(out[path], alone[0].transpose(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 1), (4, 2), (7, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_segments_equal_reference_with_gradients(shape, heads, kv_heads):
    tree = plan(build_tree(SHAPES[shape]))
    q, k, v = inputs(len(tree), heads, kv_heads, dim=16)
    mine, theirs = (with_gradients(f, q, k, v, tree) for f in (segments, reference))
    assert largest_error(mine, theirs) < 1e-11


@pytest.mark.parametrize("piece", [1, 5])
@pytest.mark.parametrize("seed", range(40))
def test_segments_of_random_forests(seed, piece, monkeypatch):
    monkeypatch.setattr(sys.modules["kernels.tree_attention.segments"], "PIECE", piece)
    tree = plan(random_tree(seed))
    q, k, v = inputs(len(tree), 4, 2, dim=8)
    mine, theirs = (with_gradients(f, q, k, v, tree) for f in (segments, reference))
    assert largest_error(mine, theirs) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_segments_in_fp32(shape):
    """At most twice the error of the obvious code in the same precision."""
    tree = plan(build_tree(SHAPES[shape]))
    exact = inputs(len(tree), 4, 2, dim=16)
    truth = with_gradients(reference, *exact, tree)
    rounded = [x.detach().float().requires_grad_() for x in exact]
    mine, naive = (with_gradients(f, *rounded, tree) for f in (segments, reference))
    for a, b, c in zip(mine, naive, truth, strict=True):
        assert largest_error([a], [c]) <= 2 * largest_error([b], [c]) + 1e-6
    again = with_gradients(segments, *rounded, plan(build_tree(SHAPES[shape])))
    assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))


def test_a_plain_causal_mask_would_be_noticed():
    forked, chain = plan(build_tree([[1, 2, 3], [1, 4, 5]])), plan(build_tree([[1, 2, 3, 4, 5]]))
    q, k, v = inputs(5, 2, 2, 8)
    difference = tree_attention(q, k, v, forked, 0.3) - tree_attention(q, k, v, chain, 0.3)
    assert difference[:3].abs().max() < 1e-15
    assert difference[3:].abs().max() > 0.1


def test_the_scale_is_that_of_the_head_where_none_is_given():
    tree = plan(build_tree([[1, 2, 3], [1, 4, 5]]))
    q, k, v = inputs(5, 2, 2, 16)
    assert torch.equal(tree_attention(q, k, v, tree), tree_attention(q, k, v, tree, 0.25))


def test_what_does_not_belong_together():
    q, k, v = inputs(5, 4, 2, 8)
    tree = plan(build_tree([[1, 2, 3], [1, 4, 5]]))
    for wrong, shapes in [
        ((q, k, v, plan(build_tree([[1, 2, 3, 4]]))), r"\(5, 2, 8\) and a plan of 4 tokens"),
        ((q[None], k, v, tree), r"\(1, 5, 4, 8\), \(5, 2, 8\)"),
        ((q, k[:4], v[:4], tree), r"\(5, 4, 8\), \(4, 2, 8\)"),
        ((q, k, v[:, :1], tree), r"\(5, 2, 8\), \(5, 1, 8\)"),
        ((q[:, :3], k, v, tree), r"\(5, 3, 8\), \(5, 2, 8\)"),
    ]:
        with pytest.raises(ValueError, match=f"{shapes}.* do not belong together"):
            tree_attention(*wrong)
    with pytest.raises(ValueError, match=r"one dtype, not torch.float64, torch.float32"):
        tree_attention(q, k.float(), v, tree)
    with pytest.raises(ValueError, match=r"one device, not cpu, cpu, cpu, meta"):
        tree_attention(q, k, v, plan(build_tree([[1, 2, 3], [1, 4, 5]]), "meta"))


def test_what_cannot_run_here(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for impl in ("triton", "flash"):
        with pytest.raises(ValueError, match=f"attention '{impl}' needs a GPU: use segments"):
            choose(impl, CPU, torch.float32)
    with pytest.raises(ValueError, match="attention 'dense' is none of auto, reference, triton"):
        choose("dense", CPU, torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("triton", CPU, torch.float32) == "triton"


def test_what_auto_means():
    assert choose("auto", CPU, torch.float32) == "segments"
    assert choose("auto", GPU, torch.float32) == "triton"
    assert choose("reference", GPU, torch.float32) == "reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flash_is_refused_a_dtype_that_it_lacks_before_anything_is_loaded(dtype):
    assert choose("flash", GPU, torch.bfloat16) == "flash"
    with pytest.raises(
        ValueError, match=rf"'flash' computes in float16 or bfloat16, not in {dtype}"
    ):
        choose("flash", GPU, dtype)
