"""Tree attention, forward and backward, against everything else that could compute it.

    make bench      or      python -m bench.tree_attention [--tokens 16384 --dims 128]

16 episodes of one prompt, each of 10 turns that only grow; bf16, on a GPU. All ways run in turn,
and medians are compared: milliseconds, and TFLOP/s on pairs of tokens that see each other, of the
forward and of the backward pass.

    triton, flash, segments, reference      as in ``kernels.tree_attention``
    flex                                    torch's FlexAttention over the same blocks
    rows B, rows A                          causal flash attention over one row per episode, or per
                                            call: more tokens than the tree has, no sharing

A way is timed only where it agrees with the reference: its error against fp64 on a small tree is at
most twice that of plain code in the same precision.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from kernels.tree import TokenTree, build_tree
from kernels.tree.plan import TreePlan, plan
from kernels.tree_attention import reference, segments, tree_attention
from kernels.tree_attention.reference import spelled_out

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


@cache
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


def make_inputs(
    tokens: int, dim: int, dtype: torch.dtype, heads: tuple[int, int] = (HEADS, KV_HEADS)
) -> list[Tensor]:
    """q, k and v."""
    generator = torch.Generator(_device()).manual_seed(0)
    options = {"generator": generator, "device": generator.device, "dtype": dtype}
    return [
        torch.randn(tokens, count, dim, **options).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    ]


def step(attend: Attend, inputs: list[Tensor], tree: TreePlan) -> list[Tensor]:
    q, k, v = inputs
    out = attend(q, k, v, tree, q.shape[-1] ** -0.5)
    return [out, *torch.autograd.grad(out, inputs, _some_gradient(out))]


def timed_step(attend: Attend, inputs: list[Tensor], tree: TreePlan) -> tuple[float, float]:
    """Seconds of the forward pass, and of the backward pass."""
    q, k, v = inputs
    started = _now()
    out = attend(q, k, v, tree, q.shape[-1] ** -0.5)
    forward, grad = _now(), _some_gradient(out)
    halfway = _now()
    torch.autograd.grad(out, inputs, grad)
    return forward - started, _now() - halfway


def _some_gradient(out: Tensor) -> Tensor:
    """The same in every dtype."""
    return (torch.arange(out.numel(), device=out.device) % 7 - 3).to(out.dtype).view(out.shape)


def _now() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def shares_of_rule(attend: Attend, inputs: list[Tensor], tree: TreePlan) -> list[float]:
    """How much of the error that the tests allow the output and each gradient have: up to 1.

    Allowed is twice the error of plain code in the same dtype, both against fp64.
    """
    is_half = inputs[0].dtype.itemsize == 2
    # What plain code has as exactly zero, tensor cores and a GPU's exp2 do not.
    floor = (2e-5 if is_half else 4e-6) if ON_GPU else 1e-6
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth = step(reference, exact, tree)
    plain = step(spelled_out if is_half else reference, inputs, tree)
    shares = []
    for mine, naive, true in zip(step(attend, inputs, tree), plain, truth, strict=True):
        error, allowed = ((x.double() - true).abs().max().item() for x in (mine, naive))
        shares.append(error / (2 * allowed + floor))
    return shares


def agrees(attend: Attend, dim: int) -> bool:
    """By the rule of the tests, on a tree of 1,000 tokens or so."""
    tree = plan(build_tree([c for calls in make_calls(1000) for c in calls]), _device())
    shares = shares_of_rule(attend, make_inputs(len(tree), dim, DTYPE), tree)
    return all(share <= 1 for share in shares)


def _device() -> str:
    return "cuda" if ON_GPU else "cpu"


@dataclass(frozen=True)
class Timed:
    """Medians of one way over one tree."""

    tree: int
    tokens: int
    """That the way computes: rows repeat what the tree shares."""
    forward: float
    backward: float
    """Seconds."""
    product: float
    """TFLOP of one of the 2 products of the forward pass, or the 5 of the backward, over the pairs
    that see each other."""

    @property
    def seconds(self) -> float:
        return self.forward + self.backward

    @property
    def tflops(self) -> tuple[float, float, float]:
        """A second: of the whole, of the forward and of the backward pass."""
        times = {7: self.seconds, 2: self.forward, 5: self.backward}
        return tuple(products * self.product / seconds for products, seconds in times.items())


def measure(tokens: int, dim: int, able: dict[str, Attend], repeats: int) -> dict[str, Timed]:
    """All ways in turn."""
    calls = make_calls(tokens)
    trees = {
        "tree": build_tree([c for episode in calls for c in episode]),
        "rows B": chains([episode[-1] for episode in calls]),
        "rows A": chains([c for episode in calls for c in episode]),
    }
    # Rows A of the largest trees, and a dense mask beyond 16k, do not fit into memory.
    steps, pairs, sizes = {}, {}, {}
    for name, attend in able.items():
        tree = trees.get(name, trees["tree"])
        if len(tree) > 1_000_000 or ("reference" in name and len(tree) > 20_000):
            continue
        inputs = make_inputs(len(tree), dim, DTYPE)
        steps[name] = partial(timed_step, attend, inputs, plan(tree, _device()))
        pairs[name] = int((tree.depth.astype(np.int64) + 1).sum())
        sizes[name] = len(tree)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, run in steps.items():
            taken = run()
            # The first one compiles.
            if repeat:
                seconds[name].append(taken)
    return {
        name: Timed(
            len(trees["tree"]),
            sizes[name],
            *(statistics.median(times) for times in zip(*rounds, strict=True)),
            2 * dim * HEADS * pairs[name] / 1e12,
        )
        for name, rounds in seconds.items()
    }


def row(dim: int, name: str, timed: Timed) -> str:
    numbers = [1e3 * s for s in (timed.seconds, timed.forward, timed.backward)]
    cells = "".join(f"{number:>10.3f}" for number in (*numbers, *timed.tflops))
    return f"{timed.tree:>8} {dim:>4} {name:24} {timed.tokens:>9}{cells}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tree_attention")
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dims", type=int, nargs="+", default=HEAD_DIMS)
    parser.add_argument("--ways", nargs="+", default=list(ways()), choices=list(ways()))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    columns = "".join(
        f"{c:>10}" for c in ("ms", "forward", "backward", "TFLOP/s", "forward", "backward")
    )
    print(f"{'tree':>8} {'D':>4} {'way':24} {'tokens':>9}{columns}   {DTYPE}")
    for dim in options.dims:
        able = {}
        for name in options.ways:
            attend = ways()[name]
            if name.startswith("rows") or agrees(attend, dim):
                able[name] = attend
            else:
                print(f"{'':8} {dim:>4} {name:24} no parity")
        for tokens in options.tokens:
            for name, timed in measure(tokens, dim, able, options.repeats).items():
                print(row(dim, name, timed), flush=True)


if __name__ == "__main__":
    main()
