"""Log-probability of given tokens straight from hidden states, without holding all logits."""

import torch
from torch import Tensor

from kernels.logprob import tiled
from kernels.logprob.reference import reference


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: float = 1.0,
    *,
    chunk: int | None = None,
    vocab_chunk: int | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return log softmax(hidden weight^T / temperature)[target] and that distribution's entropy.

    hidden [N, C], weight [V, C], target [N]; both results are differentiable, fp32 (fp64 for fp64
    inputs) and of shape [N]. Logits live for ``chunk`` rows and ``vocab_chunk`` tokens at a time;
    the backward pass computes them again. ``impl``: "torch", "triton", or "auto", which is triton
    for CUDA tensors. Under autocast the products are taken in its dtype, as those of ``@`` are.
    A target outside [0, V) gets NaN: looking for one would wait for the device.
    Raises ValueError where shapes, dtypes or devices do not belong together.
    """
    _check(hidden, weight, target)
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    steps = _steps(impl, hidden)
    dtype = _operand_dtype(hidden, weight)
    rows, columns = tiled.tile_shape(*hidden.shape, len(weight), hidden.is_cuda)
    plan = tiled.Plan(dtype, 1 / temperature, chunk or rows, vocab_chunk or columns, *steps)
    return tiled.LinearLogprob.apply(hidden, weight, target, plan)


def _check(hidden: Tensor, weight: Tensor, target: Tensor) -> None:
    shapes = tuple(hidden.shape), tuple(weight.shape), tuple(target.shape)
    fits = [len(shape) for shape in shapes] == [2, 2, 1]
    if not fits or hidden.shape[1] != weight.shape[1] or len(hidden) != len(target):
        raise ValueError("hidden {} does not fit weight {} and target {}".format(*shapes))
    if not hidden.device == weight.device == target.device:
        raise ValueError(
            f"hidden is on {hidden.device}, weight on {weight.device}, target on {target.device}"
        )
    if target.dtype != torch.int64:
        raise ValueError(f"target is {target.dtype}, not torch.int64")


def _operand_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What the products are taken in: the common dtype, or autocast's."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and torch.float64 not in (hidden.dtype, weight.dtype):
        return torch.get_autocast_dtype(device)
    if hidden.dtype != weight.dtype:
        raise ValueError(f"hidden is {hidden.dtype}, weight is {weight.dtype}: cast one of them")
    return hidden.dtype


def _steps(impl: str, hidden: Tensor) -> tuple[tiled.Fold, tiled.Differentiate]:
    if impl == "torch" or (impl == "auto" and not hidden.is_cuda):
        return tiled.fold, tiled.differentiate
    if impl not in ("auto", "triton"):
        raise ValueError(f'impl {impl!r} is none of "auto", "torch", "triton"')
    # Triton is not everywhere where torch is.
    from kernels.logprob import kernel

    if not (hidden.is_cuda or kernel.INTERPRETED):
        raise ValueError(f'impl "triton" on {hidden.device} needs TRITON_INTERPRET=1')
    return kernel.fold, kernel.differentiate


__all__ = ["linear_logprob", "reference"]
