"""Accelerate, set up once."""

from accelerate import Accelerator


def make_accelerator(dtype: str) -> Accelerator:
    """The process's place among the ranks, its device, and the precision it computes in.

    Raises ValueError where several ranks were launched: one is what is supported so far.
    """
    accelerator = Accelerator(mixed_precision="bf16" if dtype == "bfloat16" else "no")
    if accelerator.num_processes > 1:
        raise ValueError(
            f"{accelerator.num_processes} processes were launched: use --num_processes 1"
        )
    return accelerator
