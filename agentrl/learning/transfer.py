"""Transfer of tensors to a device: all of them in one copy, which the host does not wait for.

On a GPU each copy from ordinary memory stops the host until it is done, and the GPU then waits for
the host. From pinned memory it is queued like a kernel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

ALIGNMENT = 64
"""Bytes. Kernels are compiled anew for a pointer that is less than 16 aligned."""


def on_device(tree: Any, device: torch.device) -> Any:
    """A tree of dicts and tuples, with its tensors, which are in the host's memory, on a device."""
    if device.type == "cpu":
        return tree
    leaves, structure = tree_flatten(tree)
    of_tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    copies = _copied([leaves[i] for i in of_tensors], device)
    for i, copy in zip(of_tensors, copies, strict=True):
        leaves[i] = copy
    return tree_unflatten(leaves, structure)


def _copied(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    spans, size = [], 0
    for tensor in tensors:
        spans.append(slice(size, size + tensor.nbytes))
        size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    packed = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def seen_as(buffer: Tensor, span: slice, tensor: Tensor) -> Tensor:
        return buffer[span].view(tensor.dtype).view(tensor.shape)

    for span, tensor in zip(spans, tensors, strict=True):
        seen_as(packed, span, tensor).copy_(tensor)
    moved = packed.to(device, non_blocking=True)
    return [seen_as(moved, *each) for each in zip(spans, tensors, strict=True)]
