"""Memory that a run is sure to take, counted from its model's config: no weights are loaded.

What a step takes beside it depends on its batch: on a GPU, ``trial`` makes one and measures.
Auxiliary models are not counted.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from agentrl.config import Config, compute_dtype
from kernels.logprob.tiled import tile_shape

BYTES = {"float32": 4, "bfloat16": 2}
FP32 = 4


def num_parameters(model: PreTrainedConfig) -> int:
    """Raises ValueError where it is no causal language model that transformers knows."""
    with torch.device("meta"):
        return sum(w.numel() for w in AutoModelForCausalLM.from_config(model).parameters())


def state_bytes(config: Config, parameters: int, ranks: int) -> int:
    """Of weights, gradients and two moments on each rank, and of a reference's weights; fp32."""
    return (4 + config.algorithm.reference) * FP32 * parameters // ranks


def bytes_on_cpu(config: Config, model: PreTrainedConfig, parameters: int) -> int:
    """Of what a rank holds on a CPU besides: a tile of logits, vLLM's weights and its KV cache."""
    text, tokens = model.get_text_config(), config.micro_batch_tokens
    rows, columns = tile_shape(tokens, text.hidden_size, text.vocab_size, cuda=False)
    weights, _ = engine_bytes(config, model, parameters)
    return FP32 * rows * columns + weights + config.engine.cpu_cache_gib * 2**30


def engine_bytes(config: Config, model: PreTrainedConfig, parameters: int) -> tuple[int, int]:
    """Of vLLM's weights on a rank, and of its KV cache for the longest call."""
    text, each = model.get_text_config(), BYTES[compute_dtype(config.model)]
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    width *= getattr(text, "num_key_value_heads", None) or heads
    # Keys and values in every layer; an engine that spans several ranks deals all of it to them.
    call = 2 * text.num_hidden_layers * width * config.model.max_model_len * each
    span = config.engine.tensor_parallel_size
    return parameters * each // span, call // span


def free_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """RAM that this process may still take: the machine's, or less where a control group says so,
    of version 1 or 2."""
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in x)
    return min(int(line.split()[1]) * 1024, *_left_in_groups(groups))


def _left_in_groups(root: Path) -> list[int]:
    left = [sys.maxsize]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount, limit, usage = root, "max", "current"
        if controllers:
            mount, limit, usage = root / "memory", "limit_in_bytes", "usage_in_bytes"
        # In a container the group's own folder is often mounted as the root.
        for folder in (mount / group.lstrip("/"), mount):
            files = [folder / f"memory.{name}" for name in (limit, usage)]
            texts = [file.read_text().strip() for file in files if file.is_file()]
            if len(texts) == 2 and "max" not in texts:
                left.append(int(texts[0]) - int(texts[1]))
    return left
