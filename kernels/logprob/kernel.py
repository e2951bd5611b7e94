"""Triton kernels of the two steps on a tile of logits, which read the tile once.

They are the twins of ``fold`` and ``differentiate`` in ``tiled``. A row lies in one piece.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

# As Triton itself decides, when the kernels below are made.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Rows and columns of a block: 16 logits for each of a program's 256 threads.
BT, BV = 4, 1024


@triton.jit
def fold_kernel(
    p_logits,
    p_target,
    p_state,
    p_scale,
    n,
    v,
    s_logits,
    s_state,
    BT: tl.constexpr,
    BV: tl.constexpr,
):
    # [BT]
    o_t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    m_t = o_t < n
    p_largest, p_mass = p_state + o_t, p_state + s_state + o_t
    p_moment, p_chosen = p_state + 2 * s_state + o_t, p_state + 3 * s_state + o_t
    b_largest = tl.load(p_largest, mask=m_t, other=0.0)
    b_mass = tl.load(p_mass, mask=m_t, other=0.0)
    b_moment = tl.load(p_moment, mask=m_t, other=0.0)
    b_scale = tl.load(p_scale)
    for i_v in range(0, v, BV):
        # [BV]
        o_v = i_v + tl.arange(0, BV)
        # [BT, BV]
        m_l = m_t[:, None] & (o_v < v)[None, :]
        p_l = p_logits + o_t[:, None] * s_logits + o_v[None, :]
        b_l = tl.load(p_l, mask=m_l, other=float("-inf")) * b_scale
        # [BT]
        b_top = tl.maximum(b_largest, tl.max(b_l, 1))
        b_drop = b_largest - b_top
        b_keep = tl.exp(b_drop)
        # [BT, BV]
        b_shifted = b_l - b_top[:, None]
        b_weights = tl.exp(b_shifted)
        # Outside the tile the weights are 0 and the shifts -inf.
        b_product = b_weights * tl.where(m_l, b_shifted, 0.0)
        # [BT]
        b_moment = b_keep * (b_moment + b_mass * b_drop) + tl.sum(b_product, 1)
        b_mass = b_keep * b_mass + tl.sum(b_weights, 1)
        b_largest = b_top
    tl.store(p_largest, b_largest, mask=m_t)
    tl.store(p_mass, b_mass, mask=m_t)
    tl.store(p_moment, b_moment, mask=m_t)
    # [BT]
    b_target = tl.load(p_target + o_t, mask=m_t, other=-1)
    m_c = (b_target >= 0) & (b_target < v)
    b_chosen = tl.load(p_logits + o_t * s_logits + b_target, mask=m_c, other=0.0) * b_scale
    tl.store(p_chosen, b_chosen, mask=m_c)


@triton.jit
def differentiate_kernel(
    p_logits,
    p_target,
    p_table,
    p_scale,
    p_d_logits,
    n,
    v,
    s_logits,
    s_table,
    BT: tl.constexpr,
    BV: tl.constexpr,
):
    # [BT]
    o_t = (tl.program_id(0) * BT + tl.arange(0, BT)).to(tl.int64)
    m_t = o_t < n
    b_target = tl.load(p_target + o_t, mask=m_t, other=-1)
    b_largest = tl.load(p_table + o_t, mask=m_t, other=0.0)
    b_at_target = tl.load(p_table + s_table + o_t, mask=m_t, other=0.0)
    b_constant = tl.load(p_table + 2 * s_table + o_t, mask=m_t, other=0.0)
    b_slope = tl.load(p_table + 3 * s_table + o_t, mask=m_t, other=0.0)
    # [BV]
    o_v = tl.program_id(1) * BV + tl.arange(0, BV)
    # [BT, BV]
    m_l = m_t[:, None] & (o_v < v)[None, :]
    o_l = o_t[:, None] * s_logits + o_v[None, :]
    b_l = tl.load(p_logits + o_l, mask=m_l, other=0.0) * tl.load(p_scale)
    b_shifted = b_l - b_largest[:, None]
    b_d = tl.exp(b_shifted) * (b_constant[:, None] + b_slope[:, None] * b_shifted)
    b_d += tl.where(o_v[None, :] == b_target[:, None], b_at_target[:, None], 0.0)
    tl.store(p_d_logits + o_l, b_d.to(p_d_logits.dtype.element_ty), mask=m_l)


def _scale_of(logits: Tensor, scale: float) -> Tensor:
    # A number passed to a kernel becomes fp32, beside fp64 logits too; in memory it does not.
    return logits.new_full((1,), scale)


def fold(logits: Tensor, target: Tensor, state: Tensor, scale: float) -> None:
    n, v = logits.shape
    strides = logits.stride(0), state.stride(0)
    fold_kernel[(triton.cdiv(n, BT),)](
        logits, target, state, _scale_of(logits, scale), n, v, *strides, BT, BV, num_warps=8
    )


def differentiate(
    logits: Tensor, target: Tensor, table: Tensor, scale: float, dtype: torch.dtype
) -> Tensor:
    n, v = logits.shape
    strides = logits.stride(0), table.stride(0)
    # Every logit is read before it is written, so a tile may become its own gradient.
    out = logits if logits.dtype == dtype else torch.empty_like(logits, dtype=dtype)
    differentiate_kernel[(triton.cdiv(n, BT), triton.cdiv(v, BV))](
        logits, target, table, _scale_of(logits, scale), out, n, v, *strides, BT, BV, num_warps=8
    )
    return out
