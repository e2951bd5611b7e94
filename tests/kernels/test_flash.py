"""One call of flash attention over a tree's runs, with exact attention in its place."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode

from kernels.tree import build_tree
from kernels.tree.plan import plan
from kernels.tree_attention import flash, reference
from kernels.tree_attention.flash import flash_attention
from kernels.tree_attention.reference import spelled_out
from tests.support.device import ON_GPU
from tests.support.trees import inputs, largest_error, random_sequences, random_tree, with_gradients


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, scale
) -> Tensor:
    """Each sequence by itself, its last query at its last key."""
    lengths_q, lengths_k = cu_q.diff().tolist(), cu_k.diff().tolist()
    assert (max_q, max_k) == (max(lengths_q), max(lengths_k))
    outs = []
    parts = (q.split(lengths_q), k.split(lengths_k), v.split(lengths_k))
    for rows in zip(*parts, strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in rows)
        mask = torch.ones(q.shape[2], k.shape[2]).tril(k.shape[2] - q.shape[2]).bool()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("seed", range(10))
def test_runs_see_their_root_paths(seed, monkeypatch):
    monkeypatch.setattr(flash, "_varlen", one_by_one)
    tree = plan(random_tree(seed))
    q, k, v = inputs(len(tree), heads=4, kv_heads=2, dim=8)
    fast, slow = flash_attention(q, k, v, tree, 0.3), reference(q, k, v, tree, 0.3)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    grad = torch.randn_like(q)
    for a, b in zip(
        torch.autograd.grad(fast, (q, k, v), grad),
        torch.autograd.grad(slow, (q, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_causal_from_the_first_key_would_be_noticed(monkeypatch):
    def first_at_first(q, k, v, cu_q, cu_k, max_q, max_k, scale):
        kept = [torch.arange(a, a + n) for a, n in zip(cu_k, cu_q.diff())]
        return one_by_one(q, *(x[torch.cat(kept)] for x in (k, v)), cu_q, cu_q, max_q, max_q, scale)

    monkeypatch.setattr(flash, "_varlen", first_at_first)
    tree = plan(random_tree(3))
    q, k, v = inputs(len(tree), heads=1, kv_heads=1, dim=8)
    difference = flash_attention(q, k, v, tree, 0.3) - reference(q, k, v, tree, 0.3)
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_torch_takes_the_call(kv_heads, monkeypatch):
    """Torch's own function, without the computation, which needs a GPU."""
    monkeypatch.setattr(flash, "flash_attn_varlen_func", None)
    tree = plan(random_tree(3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = [(len(tree), n, 64) for n in (4, kv_heads, kv_heads)]
        q, k, v = (torch.empty(s, dtype=torch.bfloat16, requires_grad=True) for s in shapes)
        out = flash_attention(q, k, v, tree, 0.3)
        grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert out.shape == q.shape
    assert [g.shape for g in grads] == shapes


@pytest.mark.parametrize("deterministic", [False, True])
def test_flash_attn_is_preferred(monkeypatch, deterministic):
    """And told to sum its gradients in one order, where torch is."""
    seen = {}

    def flash_attn_varlen_func(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        seen.update(options)
        return one_by_one(q, k, v, cu_q, cu_k, max_q, max_k, options["softmax_scale"])

    monkeypatch.setattr(flash, "flash_attn_varlen_func", flash_attn_varlen_func)
    tree = plan(random_tree(3))
    q, k, v = inputs(len(tree), heads=2, kv_heads=1, dim=8, dtype=torch.float16)
    torch.use_deterministic_algorithms(deterministic)
    flash_attention(q, k, v, tree, 0.3)
    torch.use_deterministic_algorithms(False)
    assert seen == {"softmax_scale": 0.3, "causal": True, "deterministic": deterministic}


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="flash attention needs a GPU")
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 64), (4, 2, 128), (7, 1, 64)])
@pytest.mark.parametrize("seed", [3, 7])
def test_a_gpu_errs_no_more_than_twice_plain_code(seed, heads, kv_heads, dim):
    """Queries fewer than keys, and grouped heads, which torch 2.11 and 2.13 are told of apart."""
    tree = build_tree([*random_sequences(seed), *([0] * 200 + [i] * 50 for i in range(1, 17))])
    right, on_gpu = plan(tree, "cuda"), partial(inputs, len(tree), heads, kv_heads, dim)
    rounded = [x.detach().cuda().requires_grad_() for x in on_gpu(torch.bfloat16)]
    wide = [x.detach().double().requires_grad_() for x in rounded]
    mine, naive = (with_gradients(f, *rounded, right) for f in (flash_attention, spelled_out))
    for a, b, c in zip(mine, naive, with_gradients(reference, *wide, right), strict=True):
        assert largest_error([a], [c]) <= 2 * largest_error([b], [c]) + 1e-6
