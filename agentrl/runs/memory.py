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

from agentrl.config import Config, LoraConfig, compute_dtype
from agentrl.learning.lora import add_adapters

FP32 = 4


class NumParameters(NamedTuple):
    total: int
    largest_layer: int
    """A decoder layer, or the embedding or head where that has more."""
    trained: int
    """All, or LoRA's, which are besides."""


def num_parameters(model: PreTrainedConfig, lora: LoraConfig | None = None) -> NumParameters:
    """Raises ValueError where it is no causal language model that transformers knows, or has no
    layers for such adapters."""
    layers: Counter[str] = Counter()
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(model)
        for name, weight in lm.named_parameters():
            layers[re.sub(r"(\.\d+)\..*", r"\1", name)] += weight.numel()
        if lora and lora.rank:
            add_adapters(lm, lora)
    trained = sum(weight.numel() for weight in lm.parameters() if weight.requires_grad)
    return NumParameters(layers.total(), max(layers.values()), trained)


def needed_bytes(config: Config, parameters: NumParameters, ranks: int, ranks_here: int) -> int:
    """Of weights, gradients and two moments of what is trained, and of what is frozen; on a GPU, or
    of a push where that takes more.

    Of a machine without one: of all its ranks, and of vLLM's weights and KV cache besides.
    """
    step = _trainer_bytes(config, parameters, copies=4) // ranks
    if torch.cuda.is_available():
        return max(step, push_bytes(config, parameters, ranks))
    served = _width(config) * parameters.total // config.engine.tensor_parallel_size
    # Of several ranks each sums its gradient whole, before all reduce it.
    whole = FP32 * parameters.trained if ranks > 1 else 0
    return ranks_here * (step + whole + served + config.engine.cpu_cache_gib * 2**30)


def push_bytes(config: Config, parameters: NumParameters, ranks: int) -> int:
    """Of a GPU in a push, when there are no gradients and the KV cache sleeps: beside what is
    trained vLLM's weights, and one layer whole, in vLLM's dtype."""
    trainer = _trainer_bytes(config, parameters, copies=3) // ranks
    served = parameters.total // config.engine.tensor_parallel_size
    return trainer + _width(config) * (served + parameters.largest_layer)


def _trainer_bytes(config: Config, parameters: NumParameters, copies: int) -> int:
    """Of what is trained so many copies in fp32; and a reference. LoRA's is the model itself, but
    for a teacher, and what is frozen is in what is computed in."""
    reference, trained = config.algorithm.reference, copies * FP32 * parameters.trained
    if config.model.lora.rank is None:
        return trained + bool(reference) * FP32 * parameters.total
    return trained + (1 + isinstance(reference, str)) * _width(config) * parameters.total


def checkpoint_bytes(config: Config, parameters: NumParameters) -> int:
    """Of the weights, and of what a run resumes with: moments, and adapters, which peft has too."""
    if config.model.lora.rank is None:
        return 3 * FP32 * parameters.total
    return 4 * FP32 * parameters.trained + _width(config) * parameters.total


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
