"""What tests compute on, and how near numbers are to each other there: asked of the machine here
alone. tests/README.md lists who does."""

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
TOLERANCE = 1e-4
"""Nats between an engine and a policy that both compute in fp32; it is rounding on either."""
RUN_TOLERANCE = 0.1 if ON_GPU else TOLERANCE
"""And in a run, which on a GPU computes in bf16."""
BLOCK = 16 if ON_GPU else 32
"""Tokens of a block of vLLM's KV cache."""
DEVICES = [
    *["cpu"] * (not ON_GPU),
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="needs a GPU")]
    ),
]
"""Of tests with a real engine: vLLM is a build for the one or for the other."""
two_gpus = pytest.mark.skipif(
    ON_GPU and torch.cuda.device_count() < 2, reason="two ranks need two GPUs, or none"
)
