"""The Triton kernels against dense attention in fp64; without a GPU, in Triton's interpreter."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from kernels.tree import TokenTree, build_tree
from kernels.tree.plan import TreePlan, plan
from kernels.tree_attention import operators, reference
from kernels.tree_attention.operators import Launch, Launches, triton_attention
from kernels.tree_attention.reference import spelled_out
from tests.support.device import DEVICE, ON_GPU
from tests.support.trees import random_tree

# The interpreter's products of bf16 are wrong.
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * ON_GPU
SMALL: Launches = (Launch(16, 16),) * 3
MEDIUM: Launches = (Launch(32, 32),) * 3


@pytest.fixture(autouse=True)
def new_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def chain(tokens: int) -> TokenTree:
    return build_tree([list(range(tokens))])


def star(tokens: int) -> TokenTree:
    """One root and its leaves."""
    return build_tree([[0, leaf] for leaf in range(1, tokens)])


def single_tokens(tokens: int) -> TokenTree:
    return build_tree([[root] for root in range(tokens)])


def episodes() -> TokenTree:
    """1040 tokens: a prompt, four episodes, two endings each; and an episode of another prompt."""
    prompt = [0] * 200
    forks = [prompt + [i] * 80 + [end] * 30 for i in range(1, 5) for end in (5, 6)]
    return build_tree([*forks, [9] * 280])


def among_nan(values: Tensor) -> Tensor:
    """The values as a view of a larger tensor; whatever is read beyond them is NaN."""
    around = values.new_full([n + extra for n, extra in zip(values.shape, (150, 1, 3))], torch.nan)
    view = around[tuple(slice(n) for n in values.shape)]
    return view.copy_(values)


def inputs(
    tokens: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    torch.manual_seed(0)
    shapes = [(tokens, n, dim) for n in (heads, kv_heads, kv_heads, heads)]
    return [among_nan(torch.randn(shape, device=DEVICE).to(dtype)) for shape in shapes]


def with_gradients(attend: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of q, k and v."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]


def are_close(
    tree: TokenTree,
    tensors: list[Tensor],
    launches: Launches | None = SMALL,
    walked: TreePlan | None = None,
) -> list[bool]:
    """Whether output and gradients err at most twice as much as plain code in their dtype."""
    right, scale = plan(tree, DEVICE), tensors[0].shape[2] ** -0.5
    fast = partial(triton_attention, plan=walked or right, scale=scale, launches=launches)
    dense = partial(reference, plan=right, scale=scale)
    is_half = tensors[0].dtype.itemsize == 2
    # Where a token sees itself alone, plain code gives gradients of exactly zero; tensor cores,
    # which sum in an order of their own, do not. And a GPU's exp2 errs by two units of fp32.
    floor = 1e-6 if DEVICE == "cpu" else 2e-5 if is_half else 4e-6
    plain = partial(spelled_out if is_half else reference, plan=right, scale=scale)
    mine, naive = with_gradients(fast, tensors), with_gradients(plain, tensors)
    exact = with_gradients(dense, [x.double() for x in tensors])
    return [
        ((a - c).abs().max() <= 2 * (b - c).abs().max() + floor).item()
        for a, b, c in zip(mine, naive, exact, strict=True)
    ]


def tiles(*sizes: int) -> Launches:
    """Queries and keys of a tile in the forward pass, for dQ, and for dK and dV."""
    return Launch(*sizes[:2]), Launch(*sizes[2:4]), Launch(*sizes[4:])


CASES = {
    "one token": (chain(1), 1, 1, 16, tiles(16, 16, 16, 16, 16, 16)),
    "seven tokens": (star(7), 2, 1, 32, tiles(16, 32, 32, 16, 16, 32)),
    "a star": (star(33), 4, 2, 64, tiles(16, 16, 16, 16, 16, 16)),
    "single tokens": (single_tokens(33), 2, 2, 16, tiles(16, 16, 16, 16, 16, 16)),
    "a short chain": (chain(33), 7, 1, 16, tiles(32, 16, 32, 32, 16, 32)),
    "a chain": (chain(100), 1, 1, 128, tiles(16, 32, 32, 16, 32, 32)),
    "a forest": (random_tree(3), 4, 1, 80, tiles(32, 64, 64, 32, 16, 64)),
    "wide heads": (random_tree(7, 6, 20), 2, 1, 256, tiles(16, 32, 16, 32, 32, 16)),
    "episodes": (episodes(), 1, 1, 16, tiles(128, 64, 128, 64, 64, 128)),
    "launches of the table": (random_tree(7), 2, 2, 64, None),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_errs_no_more_than_twice_plain_code(case, dtype):
    tree, heads, kv_heads, dim, launches = CASES[case]
    tensors = inputs(len(tree), heads, kv_heads, dim, dtype)
    assert are_close(tree, tensors, launches) == [True] * 4


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="interpreted, tiles of the table take minutes")
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 2), (7, 1)])
@pytest.mark.parametrize("dim", [32, 64, 80, 128, 256])
def test_launches_of_the_table(heads, kv_heads, dim):
    trees = chain(1000), star(700), single_tokens(300), random_tree(7), episodes()
    for tree in trees:
        tensors = inputs(len(tree), heads, kv_heads, dim, torch.bfloat16)
        assert are_close(tree, tensors, launches=None) == [True] * 4


@pytest.mark.parametrize("sizes", [(16, 16), (32, 16), (16, 32), (64, 16), (16, 64)])
def test_any_tiles(sizes):
    tree = random_tree(7, sequences=6, length=20)
    assert are_close(tree, inputs(len(tree), 2, 1, 16), tiles(*sizes, *sizes, *sizes)) == [True] * 4


@pytest.mark.parametrize("seed", range(6))
def test_forests(seed):
    tree = random_tree(seed, sequences=6, length=20)
    assert are_close(tree, inputs(len(tree), 1, 1, 16)) == [True] * 4


def test_a_chains_plan_would_be_noticed():
    tree = star(33)
    wrong = plan(chain(33), DEVICE)
    assert are_close(tree, inputs(33, 1, 1, 16), walked=wrong) == [False] * 4


@pytest.mark.parametrize(
    ("field", "other", "expected"),
    [
        ("list_mixed", "list_start", [False, False, False, False]),
        ("full_first", "first", [True, True, False, False]),
        ("full_stop", "stop", [True, True, False, False]),
    ],
)
def test_a_mixed_tile_taken_for_full_would_be_noticed(field, other, expected):
    tree = star(64)
    wrong = plan(tree, DEVICE)
    blocks = plan(tree, DEVICE).blocks(16, 16)
    bound = blocks.list_start[1:] if other == "list_start" else getattr(blocks, other)
    wrong.once(("blocks", 16, 16), lambda: blocks._replace(**{field: bound.contiguous()}))
    assert are_close(tree, inputs(64, 1, 1, 16), walked=wrong) == expected


def test_views_of_any_strides():
    tree = random_tree(3, sequences=6, length=20)
    attend = partial(triton_attention, plan=plan(tree, DEVICE), scale=0.25, launches=MEDIUM)
    q, k, v, grad = (x.contiguous() for x in inputs(len(tree), 2, 2, 16))
    plain = with_gradients(attend, [q, k, v, grad])
    heads_first = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v, grad)]
    fused = [*torch.cat([q, k, v], 1).split(2, 1), grad]
    dims_first = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in (q, k, v, grad)]
    for views in (heads_first, fused, dims_first):
        for a, b in zip(with_gradients(attend, views), plain, strict=True):
            assert torch.equal(a, b)


def test_a_gradient_that_is_expanded():
    tree = random_tree(1)
    q, k, v, _ = (x.requires_grad_() for x in inputs(len(tree), 1, 1, 16))
    out = triton_attention(q, k, v, plan(tree, DEVICE), 0.25, MEDIUM)
    dense = reference(q, k, v, plan(tree, DEVICE), 0.25)
    for a, b in zip(
        torch.autograd.grad(out.sum(), (q, k, v)),
        torch.autograd.grad(dense.sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_same_bits_every_time():
    tree = random_tree(3)
    attend = partial(triton_attention, plan=plan(tree, DEVICE), scale=0.25, launches=MEDIUM)
    tensors = inputs(len(tree), 2, 1, 16)
    for a, b in zip(with_gradients(attend, tensors), with_gradients(attend, tensors), strict=True):
        assert torch.equal(a, b)


def test_what_it_does_not_take():
    tree = plan(chain(2), DEVICE)
    with pytest.raises(ValueError, match="float64"):
        triton_attention(*inputs(2, 1, 1, 16, torch.float64)[:3], tree, 1.0)
    with pytest.raises(ValueError, match="up to 256"):
        triton_attention(*inputs(2, 1, 1, 257)[:3], tree, 1.0)


@pytest.mark.slow
def test_torch_knows_the_operators():
    tree = plan(random_tree(1), DEVICE)
    q, k, v, grad = (x.requires_grad_() for x in inputs(len(tree), 2, 1, 16))
    launch, launches = list(MEDIUM[0]), [*MEDIUM[1], *MEDIUM[2]]
    lists = operators._query_lists(tree, MEDIUM[0])
    both = lists + operators._key_ranges(tree, MEDIUM[2])
    forward = (q, k, v, tree.end, lists, both, launch, launches, 0.25)
    torch.library.opcheck(operators.tree_attention, forward)
    out, lse = operators.tree_attention(*(x.detach() for x in (q, k, v)), *forward[3:])
    saved = [x.detach() for x in (grad, q, k, v, out, lse)]
    torch.library.opcheck(
        operators.tree_attention_backward, (*saved, tree.end, both, launches, 0.25)
    )


def layer(x: Tensor, weights: list[Tensor], tree: TreePlan) -> Tensor:
    """An attention layer of two heads."""
    q, k, v = (F.linear(x, w).view(len(x), -1, 16) for w in weights[:3])
    out = triton_attention(q, k, v, tree, 0.25)
    return F.linear(out.flatten(1), weights[3])


def layer_inputs(tokens: int) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    shapes = [(32, 32), (16, 32), (16, 32), (32, 32)]
    weights = [torch.randn(s, device=DEVICE).div(6).requires_grad_() for s in shapes]
    return torch.randn(tokens, 32, device=DEVICE, requires_grad=True), weights


def gradients_of(run: Callable[..., Tensor], x: Tensor, weights: list[Tensor], tree: TreePlan):
    out = run(x, weights, tree)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *weights])]


def save_attention(ctx, op, *args, **kwargs) -> CheckpointPolicy:
    if op is torch.ops.agentrl.tree_attention.default:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid):
        self.launches += 1
        return self.kernel[grid]


@pytest.mark.parametrize(
    ("options", "launches"),
    [
        ({}, 2),
        ({"context_fn": partial(create_selective_checkpoint_contexts, save_attention)}, 1),
    ],
)
def test_checkpointing_can_save_the_attention(options, launches, monkeypatch):
    tree = plan(random_tree(1), DEVICE)
    x, weights = layer_inputs(len(tree))
    expected = gradients_of(layer, x, weights, tree)
    counted = Counted(operators.attend_kernel)
    monkeypatch.setattr(operators, "attend_kernel", counted)
    run = partial(checkpoint, layer, use_reentrant=False, **options)
    for a, b in zip(gradients_of(run, x, weights, tree), expected, strict=True):
        assert torch.equal(a, b)
    assert counted.launches == launches


def test_compiles_in_one_graph():
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for seed in (1, 3):
        tree = plan(random_tree(seed), DEVICE)
        operators.prepare(tree, 16, torch.float32)
        x, weights = layer_inputs(len(tree))
        result = gradients_of(compiled, x, weights, tree)
        for a, b in zip(result, gradients_of(layer, x, weights, tree), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
