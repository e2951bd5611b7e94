"""Memory that a run is sure to take, beside what is free: no weights are loaded.

What a step takes besides depends on its batch: on a GPU, ``trial`` makes one and measures.
Auxiliary models are not counted.
"""

from contextlib import suppress
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from agentrl.config import Config, compute_dtype

FP32 = 4


def num_parameters(model: PreTrainedConfig) -> int:
    """Raises ValueError where it is no causal language model that transformers knows."""
    with torch.device("meta"):
        return sum(w.numel() for w in AutoModelForCausalLM.from_config(model).parameters())


def needed_bytes(config: Config, parameters: int, ranks: int, ranks_here: int) -> int:
    """Of weights, gradients, two moments and a reference's weights, on a GPU, all in fp32.

    Of a machine without one: of all its ranks, and of vLLM's weights and KV cache besides.
    """
    trained = (4 + bool(config.algorithm.reference)) * FP32 * parameters // ranks
    if torch.cuda.is_available():
        return trained
    width = 2 if compute_dtype(config.model) == "bfloat16" else FP32
    served = width * parameters // config.engine.tensor_parallel_size
    return ranks_here * (trained + served + config.engine.cpu_cache_gib * 2**30)


def free_bytes(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Of the GPU, or of the RAM that this process may still take: the machine's, or less where its
    control group, of version 2 or 1, says so."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in x)
    free = int(line.split()[1]) * 1024
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        # A file may be absent, or say "max".
        with suppress(OSError, ValueError):
            left = int((groups / limit).read_text()) - int((groups / usage).read_text())
            free = min(free, left)
    return free
