"""Tree attention, forward and backward, against everything else that could compute it.

    make bench      or      python -m bench.tree_attention

16 episodes of one prompt, each of 10 turns that only grow; bf16, on a GPU. All ways run in turn,
and medians are compared: milliseconds, and TFLOP/s on pairs of tokens that see each other.

    triton, flash, segments, reference      as in ``kernels.tree_attention``
    flex                                    torch's FlexAttention over the same blocks
    rows B, rows A                          causal flash attention over one row per episode, or per
                                            call: more tokens than the tree has, no sharing

A way is timed only where it agrees with the reference: its error against fp64 on a small tree is at
most twice the reference's in the same precision.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kernels.tree import TokenTree, build_tree
from kernels.tree.plan import TreePlan, plan
from kernels.tree_attention import reference, segments, tree_attention

ON_GPU = torch.cuda.is_available()
SIZES = (16_384, 32_768, 65_536, 131_072) if ON_GPU else (1024, 2048, 4096)
HEAD_DIMS = (64, 128) if ON_GPU else (32,)
HEADS, KV_HEADS = (16, 8) if ON_GPU else (4, 2)
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
REPEATS, EPISODES, TURNS = 20, 16, 10
Attend = Callable[[Tensor, Tensor, Tensor, TreePlan, float], Tensor]


def make_calls(tokens: int) -> list[list[np.ndarray]]:
    """Episodes of growing calls whose tree has about so many tokens."""
    rng = np.random.default_rng(0)
    turn = tokens // (EPISODES * TURNS + TURNS)
    prompt = rng.integers(0, 150_000, TURNS * turn)
    episodes = []
    for _ in range(EPISODES):
        whole = np.concatenate([prompt, rng.integers(0, 150_000, TURNS * turn)])
        episodes.append([whole[: len(prompt) + n * turn] for n in range(1, TURNS + 1)])
    return episodes


def chains(rows: list[np.ndarray]) -> TokenTree:
    """Rows one behind the other, nothing shared: the first token of each tells them apart."""
    return build_tree([np.concatenate([[-1 - i], row[1:]]) for i, row in enumerate(rows)])


def varlen(q: Tensor, k: Tensor, v: Tensor, rows: TreePlan, scale: float) -> Tensor:
    from kernels.tree_attention.flash import _gather, _varlen

    g = rows.once("flash", lambda: _gather(rows))
    return _varlen(q, k, v, g.cu_seqlens_q, g.cu_seqlens_k, g.max_q, g.max_k, scale)


def flex(q: Tensor, k: Tensor, v: Tensor, tree: TreePlan, scale: float) -> Tensor:
    mask = tree.once("flex", lambda: _block_mask(tree))
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return _compiled_flex()(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)[0].transpose(
        0, 1
    )


def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _block_mask(tree: TreePlan, size: int = 128):
    from torch.nn.attention.flex_attention import BlockMask

    blocks, end = tree.blocks(size, size), tree.end
    starts, mixed = blocks.list_start.tolist(), blocks.list_mixed.tolist()
    num = len(mixed)
    lists = {
        "kv": zip(mixed, starts[1:], strict=True),
        "full_kv": zip(starts[:-1], mixed, strict=True),
    }
    arguments = []
    for stretches in lists.values():
        counts = torch.zeros(num, dtype=torch.int32)
        indices = torch.zeros(num, num, dtype=torch.int32)
        for row, (a, b) in enumerate(stretches):
            counts[row] = b - a
            indices[row, : b - a] = blocks.key_block[a:b].cpu()
        arguments += [counts.to(end.device)[None, None], indices.to(end.device)[None, None]]

    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < end[j])

    return BlockMask.from_kv_blocks(
        *arguments, BLOCK_SIZE=size, mask_mod=sees, seq_lengths=(len(tree), len(tree))
    )


def ways() -> dict[str, Attend]:
    if not ON_GPU:
        return {"reference": reference, "segments": segments}
    made = {name: partial(tree_attention, impl=name) for name in ("triton", "flash")}
    return made | {
        "flex": flex,
        "torch.compile(reference)": torch.compile(reference, dynamic=True),
        "rows B": varlen,
        "rows A": varlen,
    }


def make_inputs(tokens: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    device = "cuda" if ON_GPU else "cpu"
    return [
        torch.randn(tokens, heads, dim, generator=generator).to(device, dtype).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def step(attend: Attend, inputs: list[Tensor], tree: TreePlan) -> list[Tensor]:
    q, k, v = inputs
    out = attend(q, k, v, tree, q.shape[-1] ** -0.5)
    return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]


def agrees(attend: Attend, dim: int) -> bool:
    """By the rule of the tests, on a tree of 1,000 tokens or so."""
    tree = plan(build_tree([c for calls in make_calls(1000) for c in calls]), _device())
    rounded = make_inputs(len(tree), dim, DTYPE)
    exact = [x.detach().double().requires_grad_() for x in rounded]
    truth = step(reference, exact, tree)
    for mine, naive, true in zip(
        step(attend, rounded, tree), step(reference, rounded, tree), truth, strict=True
    ):
        error, allowed = ((x.double() - true).abs().max().item() for x in (mine, naive))
        if not error <= 2 * allowed + 1e-6:
            return False
    return True


def _device() -> str:
    return "cuda" if ON_GPU else "cpu"


def measure(tokens: int, dim: int, able: dict[str, Attend]) -> None:
    calls = make_calls(tokens)
    trees = {
        "tree": build_tree([c for episode in calls for c in episode]),
        "rows B": chains([episode[-1] for episode in calls]),
        "rows A": chains([c for episode in calls for c in episode]),
    }
    # Rows A of the largest trees, and a dense mask beyond 16k, do not fit into memory.
    steps, pairs = {}, {}
    for name, attend in able.items():
        tree = trees.get(name, trees["tree"])
        if len(tree) > 1_000_000 or ("reference" in name and len(tree) > 20_000):
            continue
        steps[name] = partial(
            step, attend, make_inputs(len(tree), dim, DTYPE), plan(tree, _device())
        )
        pairs[name] = int((tree.depth.astype(np.int64) + 1).sum())
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(REPEATS + 1):
        for name, run in steps.items():
            started = time.perf_counter()
            run()
            if ON_GPU:
                torch.cuda.synchronize()
            # The first one compiles.
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        median = statistics.median(times)
        rate = 14 * dim * HEADS * pairs[name] / median / 1e12
        count, size = len(trees["tree"]), len(trees.get(name, trees["tree"]))
        print(f"{count:>8} {dim:>4} {name:24} {size:>9} {1e3 * median:>9.2f} {rate:>9.3f}")


def main() -> None:
    torch.set_num_threads(2)
    print(f"{'tree':>8} {'D':>4} {'way':24} {'tokens':>9} {'ms':>9} {'TFLOP/s':>9}   {DTYPE}")
    for dim in HEAD_DIMS:
        able = {}
        for name, attend in ways().items():
            if name.startswith("rows") or agrees(attend, dim):
                able[name] = attend
            else:
                print(f"{'':8} {dim:>4} {name:24} no parity")
        for tokens in SIZES:
            measure(tokens, dim, able)


if __name__ == "__main__":
    main()
