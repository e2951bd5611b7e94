"""What a training step and an engine will hold in memory, from a model's config alone.

Weights, gradients and AdamW's two moments are fp32 and divided over the ranks; activations are
those of the largest micro-batch, in a dense decoder of the Llama and Qwen kind. Logits are never
held. It is an estimate of what tensors take: what it leaves out (experts, the allocator's gaps) and
how far off it is on real steps is measured in ``tests/runs/test_preflight.py``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from kernels.logprob.tiled import tile_shape
from kernels.tree_attention.segments import PIECE

BYTES = {"float32": 4, "bfloat16": 2}
FP32 = 4
LIVE_LAYERS = 0.8
"""What the layer under way in the backward pass holds, beside what every layer keeps."""
SEEN = 0.25
"""The share of the longest path that is above a piece of queries. This and the former are fitted to
groups of 8 episodes after a prompt of half the tokens. Many short episodes see more: with 64 of 32
tokens each the estimate is 0.66 of what is taken."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder that memory depends on, in numbers of values."""

    parameters: int
    layers: int
    width: int
    inner: int
    """Of the feed-forward layer."""
    query: int
    """Heads times their dimension."""
    key: int
    """Key/value heads times their dimension."""
    vocabulary: int

    @property
    def head(self) -> int:
        return self.vocabulary * self.width


def shape_of(folder: str | Path) -> Shape:
    """Read a transformers folder's config; no weights are loaded.

    Raises ValueError where the model is no causal language model that transformers knows.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters=sum(weight.numel() for weight in lm.parameters()),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        inner=text.intermediate_size,
        query=heads * head_dim,
        key=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        vocabulary=text.vocab_size,
    )


def state_bytes(shape: Shape, ranks: int) -> int:
    """Weights, gradients and two moments on each rank, all fp32."""
    return 4 * FP32 * shape.parameters // ranks


def checkpoint_bytes(shape: Shape) -> int:
    """The weights in fp32, and what a run resumes with: two moments of each."""
    return 3 * FP32 * shape.parameters


def activation_bytes(
    shape: Shape, *, tokens: int, longest: int, dtype: str, recompute: str, kernels: str
) -> int:
    """What the backward pass of a micro-batch needs, at its peak.

    tokens: of its tree. longest: of a path in it, at most.
    """
    compute = BYTES[dtype]
    attention = compute * (shape.query + 2 * shape.key * _gathered(longest, kernels))
    layer = _layer_bytes(shape, compute) + attention
    kept = {
        "off": layer,
        "full": FP32 * shape.width,
        "selective": FP32 * shape.width + compute * shape.query,
    }[recompute]
    mask = compute * longest if kernels == "segments" else 0
    held = tokens * (shape.layers * kept + LIVE_LAYERS * layer + 6 * FP32 * shape.width + mask)
    # Some tiles of logits; the head's gradient, before it is added to that of other micro-batches.
    rows, columns = tile_shape(tokens, shape.width, shape.vocabulary, kernels != "segments")
    held += FP32 * (3 * rows * columns + shape.head)
    # Under autocast, the weights once more.
    return int(held) + (compute * shape.parameters if compute < FP32 else 0)


def _gathered(longest: int, kernels: str) -> float:
    """How often a key is copied: once for every piece of queries that sees it."""
    return max(1.0, SEEN * longest / PIECE) if kernels in ("segments", "flash") else 0.0


def _layer_bytes(shape: Shape, compute: int) -> int:
    """What one layer keeps of each token, but for what attention gathers."""
    # Each norm keeps its input, its output before the weight, and what the products read.
    norms = 2 * (2 * FP32 + compute) * shape.width
    # Queries and keys are normed and turned in fp32, then attended to.
    heads = (FP32 + compute) * (shape.query + shape.key)
    # Gate, its activation, up, and their product.
    return norms + heads + compute * (2 * shape.query + 2 * shape.key + 4 * shape.inner)


def cache_bytes_per_token(shape: Shape, dtype: str) -> int:
    """Of the engine's KV cache."""
    return 2 * shape.layers * shape.key * BYTES[dtype]


def free_bytes() -> int:
    """RAM that this process may still take: the machine's, or less where a cgroup says so."""
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in x)
    return min(int(line.split()[1]) * 1024, *_cgroup_free(Path("/sys/fs/cgroup")))


def _cgroup_free(root: Path) -> list[int]:
    """What is left below the limit of each control group around this process; versions 1 and 2."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    room = [sys.maxsize]
    for _, controllers, group in lines:
        if controllers not in ("", "memory"):
            continue
        mount, names = (
            (root, ("memory.max", "memory.current"))
            if not controllers
            else (root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        )
        # In a container the group's own folder is often mounted as the root.
        for folder in (mount / group.lstrip("/"), mount):
            values = [_number(folder / name) for name in names]
            if None not in values:
                room.append(values[0] - values[1])
    return room


def _number(file: Path) -> int | None:
    """What a file holds; None where there is none, or it says ``max``."""
    text = file.read_text().strip() if file.is_file() else "max"
    return None if text == "max" else int(text)
