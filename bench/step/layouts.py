"""Layouts of a batch of calls, three of them, and what each needs."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.algorithms import GRPO, Terms
from agentrl.learning.packing import pack
from agentrl.learning.policy import Policy
from agentrl.types import Sample
from bench.step import rows, workloads

SHAPES: dict[str, tuple[type, type, dict[str, int]]] = {
    "tiny": (
        *(Qwen3ForCausalLM, Qwen3Config),
        dict(vocab_size=800, hidden_size=128, intermediate_size=384, num_hidden_layers=4)
        | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=32),
    ),
    "qwen2.5-0.5b": (
        *(Qwen2ForCausalLM, Qwen2Config),
        dict(vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24)
        | dict(num_attention_heads=14, num_key_value_heads=2),
    ),
    "qwen2.5-1.5b": (
        *(Qwen2ForCausalLM, Qwen2Config),
        dict(vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28)
        | dict(num_attention_heads=12, num_key_value_heads=2),
    ),
    "qwen3-0.6b": (
        *(Qwen3ForCausalLM, Qwen3Config),
        dict(vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28)
        | dict(num_attention_heads=16, num_key_value_heads=8, head_dim=128),
    ),
}
"""All tie their embeddings."""


@dataclass(frozen=True)
class Options:
    shape: Literal["tiny", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b"] = "tiny"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the layers compute in; weights are fp32."""
    attention: Literal["auto", "reference", "triton", "flash", "segments"] = "auto"
    recompute: Literal["off", "full", "selective"] = "off"
    compile: bool = False
    """The policy's layers, not transformers' own way."""
    repeats: int = 20
    budgets: tuple[int, ...] = (2048, 4096, 8192)
    """Micro-batch sizes to choose from."""
    layers: int | None = None
    """Absent: as many as the shape has."""
    copies: int = 1
    """How many times as large the workloads are: 16k tokens or so with 2."""
    workloads: tuple[str, ...] = tuple(workloads.WORKLOADS)


@dataclass(frozen=True)
class Way:
    """One way to lay a batch of calls out."""

    side: Literal["A", "B", "C"]
    layout: Literal["padded", "packed", "tree"]
    budget: int

    def __str__(self) -> str:
        return f"{self.layout} {self.budget}"


def ways(side: str, budgets: Sequence[int]) -> list[Way]:
    layouts = ("tree",) if side == "C" else ("padded", "packed")
    return [Way(side, layout, budget) for layout in layouts for budget in budgets]


def make_model(options: Options) -> tuple[nn.Module, Policy, torch.device]:
    """The same weights twice over: with transformers' own attention, and as a policy."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model_type, config_type, sizes = SHAPES[options.shape]
    sizes = sizes | ({"num_hidden_layers": options.layers} if options.layers else {})
    config = config_type(**sizes, tie_word_embeddings=True, max_position_embeddings=32_768)
    lm = model_type(config).to(device)
    how = {"recompute": options.recompute, "compile": options.compile}
    policy = Policy(lm, attention=options.attention, **how)
    return lm, policy, device


def make_step(
    way: Way, episodes: Sequence[Sequence[Sample]], options: Options, model: tuple
) -> Callable[[], int]:
    """A step's forward and backward pass in one way; returns how many tokens were computed."""
    lm, policy, device = model
    # Sharded weights are cast to bf16 here, whatever the layers of others compute in.
    is_sharded = isinstance(next(policy.parameters()), DTensor)
    dtype = torch.bfloat16 if is_sharded else getattr(torch, options.dtype)
    is_padded = way.layout == "padded"
    if way.side == "C":
        batches = [*pack([sample for calls in episodes for sample in calls], way.budget)]
    else:
        linear = rows.one_per_call if way.side == "A" else rows.one_per_chain
        lay_out = rows.padded if is_padded else rows.packed
        groups = rows.batches(linear(episodes), way.budget, is_padded=is_padded)
        batches = [lay_out(group) for group in groups]
    num_terms = sum(len(batch.advantages) for batch in batches)

    def score(batch: Any) -> Tensor:
        if is_padded:
            lm.set_attn_implementation("sdpa")
            return rows.score_padded(lm, batch)
        lm.set_attn_implementation("agentrl_tree")
        return policy.terms(batch).logprobs

    def step() -> int:
        for batch in batches:
            batch = batch.to(device) if is_padded else policy.on_device(batch, device, dtype)
            with torch.autocast(device.type, torch.bfloat16, options.dtype == "bfloat16"):
                logprobs = score(batch)
            values = GRPO().loss(_terms(logprobs, batch)).values
            (values.sum() / num_terms).backward()
        return sum(batch.ids.numel() for batch in batches)

    return step


def _terms(logprobs: Tensor, batch: Any) -> Terms:
    nothing = torch.zeros_like(batch.sampler_logprobs)
    return Terms(
        logprobs=logprobs,
        entropies=nothing,
        sampler_logprobs=batch.sampler_logprobs,
        proximal_logprobs=logprobs.detach(),
        advantages=batch.advantages,
        call=nothing.long(),
    )


def gradients(step: Callable[[], int], lm: nn.Module) -> list[Tensor]:
    lm.zero_grad()
    step()
    return [weight.grad.clone() for weight in lm.parameters()]


def largest_difference(mine: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Relative to the largest entry of each weight's gradient."""
    pairs = zip(mine, exact, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def seconds(step: Callable[[], int], device: torch.device) -> float:
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def operations(way: Way, episodes: Sequence[Sequence[Sample]], lm: nn.Module) -> tuple[int, int]:
    """Floating-point operations that the step needs, and its tokens; without padding.

    Linear layers: 6 a weight and token. Attention: 14 a head dimension and pair of tokens that see
    each other (2 products forward, 5 backward). The head: on trained tokens alone.
    """
    sizes = lm.config
    head_dim = getattr(sizes, "head_dim", sizes.hidden_size // sizes.num_attention_heads)
    of_pair = 14 * sizes.num_hidden_layers * sizes.num_attention_heads * head_dim
    of_token = 6 * sum(p.numel() for p in lm.base_model.layers.parameters() if p.ndim == 2)
    of_trained = 8 * sizes.vocab_size * sizes.hidden_size
    if way.side == "C":
        batches = pack([sample for calls in episodes for sample in calls], 10**9)
        depths = [batch.depth for batch in batches]
        trained = sum(len(batch.trained) for batch in batches)
    else:
        linear = (rows.one_per_call if way.side == "A" else rows.one_per_chain)(episodes)
        depths = [torch.arange(len(row.ids)) for row in linear]
        trained = sum(len(row.trained) for row in linear)
    tokens, pairs = sum(map(len, depths)), sum((d + 1).sum().item() for d in depths)
    return of_token * tokens + of_pair * pairs + of_trained * trained, tokens


def peak_mib(name: str, way: Way, options: Options) -> float:
    """Of one step, in a process of its own."""
    # What this process keeps for its next step, that one may need.
    torch.cuda.empty_cache()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak, name, way, options).result()


def _peak(name: str, way: Way, options: Options) -> float:
    make_step(way, workloads.make(name, options.copies), options, make_model(options))()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: its peak is the parent's, where that was higher.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**10
