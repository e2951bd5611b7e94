"""Variables of the environment by which Accelerate, torch and oneDNN would compute another gradient
than the config says: set by a shell, a cluster or an Accelerate config of another project."""

import os
import re

import torch

OVERRIDES = re.compile(
    "(ACCELERATE|FSDP|PARALLELISM_CONFIG|MEGATRON_LM)_.*|NVIDIA_TF32_OVERRIDE"
    "|(ONEDNN|DNNL)_DEFAULT_FPMATH_MODE"
)
KEPT = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP", "FSDP_VERSION")
"""What the launcher says of itself; the code decides what it means."""
LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"
"""Who reads a model's files, not what is in them."""
OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def drop_overrides() -> None:
    """Before any of them is read. Raises ValueError where another trainer is asked for."""
    for name, trainer in OTHERS.items():
        if os.environ.get(name, "false").lower() in ("true", "1", "yes"):
            raise ValueError(
                f"{name} is set, but policies are sharded by FSDP2 alone, not by {trainer}: launch "
                "with --use_fsdp --fsdp_version 2, or with a --config_file that names FSDP"
            )
    # One process has no launcher that could mean them; Accelerate would want a GPU for them.
    kept = (*KEPT, LOADING) if "LOCAL_RANK" in os.environ else ()
    for name in [*filter(OVERRIDES.fullmatch, os.environ)]:
        if name not in kept:
            del os.environ[name]
    # Read when torch was imported.
    torch.set_float32_matmul_precision("highest")
