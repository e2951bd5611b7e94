"""Memory that a run is sure to take, beside what is free: no weights are loaded.

What a step takes besides depends on its batch: on a GPU, ``trial`` makes one and measures.
Auxiliary models are not counted.
"""

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from agentrl.config import Config, compute_dtype

FP32 = 4


class NumParameters(NamedTuple):
    total: int
    largest_layer: int
    """A decoder layer, or the embedding or head where that has more."""


def num_parameters(model: PreTrainedConfig) -> NumParameters:
    """Raises ValueError where it is no causal language model that transformers knows."""
    layers: Counter[str] = Counter()
    with torch.device("meta"):
        for name, weight in AutoModelForCausalLM.from_config(model).named_parameters():
            layers[re.sub(r"(\.\d+)\..*", r"\1", name)] += weight.numel()
    return NumParameters(layers.total(), max(layers.values()))


def needed_bytes(config: Config, parameters: NumParameters, ranks: int, ranks_here: int) -> int:
    """Of weights, gradients, two moments and a reference's weights, all in fp32; on a GPU, or of a
    push where that takes more.

    Of a machine without one: of all its ranks, and of vLLM's weights and KV cache besides.
    """
    step = (4 + bool(config.algorithm.reference)) * FP32 * parameters.total // ranks
    if torch.cuda.is_available():
        return max(step, push_bytes(config, parameters, ranks))
    served = _width(config) * parameters.total // config.engine.tensor_parallel_size
    # Of several ranks each sums its gradient whole, before all reduce it.
    whole = FP32 * parameters.total if ranks > 1 else 0
    return ranks_here * (step + whole + served + config.engine.cpu_cache_gib * 2**30)


def push_bytes(config: Config, parameters: NumParameters, ranks: int) -> int:
    """Of a GPU in a push, when there are no gradients and the KV cache sleeps: beside what is
    trained vLLM's weights, and one layer whole, in vLLM's dtype."""
    trained = (3 + bool(config.algorithm.reference)) * FP32 * parameters.total // ranks
    served = parameters.total // config.engine.tensor_parallel_size
    return trained + _width(config) * (served + parameters.largest_layer)


def _width(config: Config) -> int:
    """Bytes of one of vLLM's weights."""
    return 2 if compute_dtype(config.model) == "bfloat16" else FP32


def free_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Of the GPU, or of the RAM that this process may still take: the machine's, or less where its
    control group says so."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in x)
    free = int(line.split()[1]) * 1024
    # A file may be absent, or say "max".
    with suppress(OSError, ValueError):
        limit, used = (int((groups / f"memory.{of}").read_text()) for of in ("max", "current"))
        free = min(free, limit - used)
    return free
