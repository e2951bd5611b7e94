"""Triton's kernels of tree attention, over the tiles of the mask that are not empty.

Flash attention with another walk: full tiles without a mask, then the mixed ones with
``j <= i < end[j]``. The backward pass adds in a fixed order, without atomics: the same inputs give
the same bits.
"""

import triton
import triton.language as tl


@triton.jit
def _load_rows(p_x, o_t, stride, T, D: tl.constexpr, BD: tl.constexpr, EDGE: tl.constexpr):
    """Rows of one head as a tile; zero beyond D and, where EDGE says there may be, beyond T."""
    o_d = tl.arange(0, BD)
    # Rows times their stride can pass 2^31.
    p_x += o_t.to(tl.int64)[:, None] * stride + o_d[None, :]
    if EDGE:
        m_x = (o_t < T)[:, None]
        if D < BD:
            m_x = m_x & (o_d < D)[None, :]
        b_x = tl.load(p_x, mask=m_x, other=0.0)
    elif D < BD:
        b_x = tl.load(p_x, mask=(o_d < D)[None, :], other=0.0)
    else:
        b_x = tl.load(p_x)
    return b_x


@triton.jit
def _store_rows(p_x, b_x, o_t, stride, T, D: tl.constexpr, BD: tl.constexpr):
    o_d = tl.arange(0, BD)
    p_x += o_t.to(tl.int64)[:, None] * stride + o_d[None, :]
    m_x = (o_t < T)[:, None] & (o_d < D)[None, :]
    tl.store(p_x, b_x.to(p_x.dtype.element_ty), mask=m_x)


@triton.jit
def _scores(b_rows, b_columns, o_i, o_j, b_end, scale, MIXED: tl.constexpr):
    """Scaled products of two tiles; minus infinity where query i does not see key j.

    The queries may be the rows or the columns: the offsets and ``b_end`` broadcast accordingly.
    """
    b_s = tl.dot(b_rows, tl.trans(b_columns), input_precision="ieee") * scale
    if MIXED:
        b_s = tl.where((o_j <= o_i) & (o_i < b_end), b_s, float("-inf"))
    return b_s


@triton.jit
def _attend(
    b_out, b_max, b_sum, b_q, o_m, p_k, p_v, end, key_block, start, stop, stride_kt, stride_vt, T,
    scale, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """Add the key blocks of one stretch of a list to a running softmax."""
    for i in range(start, stop):
        o_n = tl.load(key_block + i) * BN + tl.arange(0, BN)
        b_end = tl.load(end + o_n, mask=o_n < T, other=0)
        # [BN, BD]
        b_k = _load_rows(p_k, o_n, stride_kt, T, D, BD, MIXED)
        b_v = _load_rows(p_v, o_n, stride_vt, T, D, BD, MIXED)
        # [BM, BN]
        b_s = _scores(b_q, b_k, o_m[:, None], o_n[None, :], b_end[None, :], scale, MIXED)
        b_top = tl.maximum(b_max, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_top[:, None])
        b_decay = tl.exp2(b_max - b_top)
        b_sum = b_sum * b_decay + tl.sum(b_p, 1)
        # [BM, BD]
        b_out = b_out * b_decay[:, None]
        b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out, input_precision="ieee")
        b_max = b_top
    return b_out, b_max, b_sum


@triton.jit(do_not_specialize=["T"])
def attend_kernel(
    q, k, v, end, out, lse, key_block, list_start, list_mixed, query_order,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh, T, scale,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head; ``scale`` is in base 2."""
    i_m = tl.load(query_order + tl.program_id(0))
    i_h = tl.program_id(1).to(tl.int64)
    p_k = k + i_h // G * stride_kh
    p_v = v + i_h // G * stride_vh
    o_m = i_m * BM + tl.arange(0, BM)
    # [BM, BD]
    b_q = _load_rows(q + i_h * stride_qh, o_m, stride_qt, T, D, BD, True)
    b_out = tl.zeros([BM, BD], tl.float32)
    # Finite: a row that has not yet seen a key must not subtract infinity from infinity.
    b_max = tl.full([BM], -3e38, tl.float32)
    b_sum = tl.zeros([BM], tl.float32)
    i_mixed = tl.load(list_mixed + i_m)
    b_out, b_max, b_sum = _attend(
        b_out, b_max, b_sum, b_q, o_m, p_k, p_v, end, key_block,
        tl.load(list_start + i_m), i_mixed, stride_kt, stride_vt, T, scale, D, BD, BN, False,
    )  # fmt: skip
    b_out, b_max, b_sum = _attend(
        b_out, b_max, b_sum, b_q, o_m, p_k, p_v, end, key_block,
        i_mixed, tl.load(list_start + i_m + 1), stride_kt, stride_vt, T, scale, D, BD, BN, True,
    )  # fmt: skip
    # Rows beyond T have seen nothing; they are not stored.
    m_m = o_m < T
    b_sum = tl.where(m_m, b_sum, 1.0)
    _store_rows(out + i_h * D, b_out / b_sum[:, None], o_m, tl.num_programs(1) * D, T, D, BD)
    tl.store(lse + i_h * T + o_m, b_max + tl.log2(b_sum), mask=m_m)


@triton.jit
def _add_grad_query(
    b_dq, b_q, b_do, b_lse, b_delta, o_m, p_k, p_v, end, key_block, start, stop, stride_kt,
    stride_vt, T, scale, D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """Add what the key blocks of one stretch of a list give to the queries' gradient."""
    for i in range(start, stop):
        o_n = tl.load(key_block + i) * BN + tl.arange(0, BN)
        b_end = tl.load(end + o_n, mask=o_n < T, other=0)
        # [BN, BD]
        b_k = _load_rows(p_k, o_n, stride_kt, T, D, BD, MIXED)
        b_v = _load_rows(p_v, o_n, stride_vt, T, D, BD, MIXED)
        # [BM, BN]
        b_s = _scores(b_q, b_k, o_m[:, None], o_n[None, :], b_end[None, :], scale, MIXED)
        b_p = tl.exp2(b_s - b_lse[:, None])
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
        b_ds = b_p * (b_dp - b_delta[:, None])
        # [BM, BD]
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision="ieee")
    return b_dq


@triton.jit(do_not_specialize=["T"])
def grad_query_kernel(
    q, k, v, end, out, do, lse, delta, dq, key_block, list_start, list_mixed, query_order,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh, T, scale, scale_2,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient of one block of queries of one head, and its ``delta`` for the keys."""
    i_m = tl.load(query_order + tl.program_id(0))
    i_h = tl.program_id(1).to(tl.int64)
    stride_ot = tl.num_programs(1) * D
    p_k = k + i_h // G * stride_kh
    p_v = v + i_h // G * stride_vh
    o_m = i_m * BM + tl.arange(0, BM)
    m_m = o_m < T
    # [BM, BD]
    b_q = _load_rows(q + i_h * stride_qh, o_m, stride_qt, T, D, BD, True)
    b_do = _load_rows(do + i_h * D, o_m, stride_ot, T, D, BD, True)
    b_out = _load_rows(out + i_h * D, o_m, stride_ot, T, D, BD, True)
    # [BM]
    b_delta = tl.sum(b_out.to(tl.float32) * b_do.to(tl.float32), 1)
    tl.store(delta + i_h * T + o_m, b_delta, mask=m_m)
    b_lse = tl.load(lse + i_h * T + o_m, mask=m_m, other=float("inf"))
    b_dq = tl.zeros([BM, BD], tl.float32)
    i_mixed = tl.load(list_mixed + i_m)
    b_dq = _add_grad_query(
        b_dq, b_q, b_do, b_lse, b_delta, o_m, p_k, p_v, end, key_block,
        tl.load(list_start + i_m), i_mixed, stride_kt, stride_vt, T, scale_2, D, BD, BN, False,
    )  # fmt: skip
    b_dq = _add_grad_query(
        b_dq, b_q, b_do, b_lse, b_delta, o_m, p_k, p_v, end, key_block,
        i_mixed, tl.load(list_start + i_m + 1), stride_kt, stride_vt, T, scale_2, D, BD, BN, True,
    )  # fmt: skip
    _store_rows(dq + i_h * D, b_dq * scale, o_m, stride_ot, T, D, BD)


@triton.jit
def _add_grad_key(
    b_dk, b_dv, b_k, b_v, b_end, o_n, p_q, p_do, p_lse, p_delta, start, stop, stride_qt, stride_ot,
    T, scale, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    """Add what a range of query blocks of one head gives to the gradients of keys and values."""
    for i_m in range(start, stop):
        o_m = i_m * BM + tl.arange(0, BM)
        m_m = o_m < T
        # [BM, BD]
        b_q = _load_rows(p_q, o_m, stride_qt, T, D, BD, True)
        b_do = _load_rows(p_do, o_m, stride_ot, T, D, BD, True)
        # [BM]; infinite beyond T, where nothing may be added: even a full tile can reach there.
        b_lse = tl.load(p_lse + o_m, mask=m_m, other=float("inf"))
        b_delta = tl.load(p_delta + o_m, mask=m_m, other=0.0)
        # [BN, BM]
        b_s = _scores(b_k, b_q, o_m[None, :], o_n[:, None], b_end[:, None], scale, MIXED)
        b_p = tl.exp2(b_s - b_lse[None, :])
        b_dp = tl.dot(b_v, tl.trans(b_do), input_precision="ieee")
        b_ds = b_p * (b_dp - b_delta[None, :])
        # [BN, BD]
        b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision="ieee")
        b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision="ieee")
    return b_dk, b_dv


@triton.jit(do_not_specialize=["T"])
def grad_key_kernel(
    q, k, v, end, do, lse, delta, dk, dv, first, full_first, full_stop, stop, key_order,
    stride_qt, stride_qh, stride_kt, stride_kh, stride_vt, stride_vh, T, scale, scale_2,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """What one query head gives to the gradients of one block of keys and values."""
    i_n = tl.load(key_order + tl.program_id(0))
    i_h = tl.program_id(1).to(tl.int64)
    stride_ot = tl.num_programs(1) * D
    o_n = i_n * BN + tl.arange(0, BN)
    b_end = tl.load(end + o_n, mask=o_n < T, other=0)
    # [BN, BD]
    b_k = _load_rows(k + i_h // G * stride_kh, o_n, stride_kt, T, D, BD, True)
    b_v = _load_rows(v + i_h // G * stride_vh, o_n, stride_vt, T, D, BD, True)
    b_dk = tl.zeros([BN, BD], tl.float32)
    b_dv = tl.zeros([BN, BD], tl.float32)
    i_full_first, i_full_stop = tl.load(full_first + i_n), tl.load(full_stop + i_n)
    p_q, p_do = q + i_h * stride_qh, do + i_h * D
    p_lse, p_delta = lse + i_h * T, delta + i_h * T
    b_dk, b_dv = _add_grad_key(
        b_dk, b_dv, b_k, b_v, b_end, o_n, p_q, p_do, p_lse, p_delta,
        tl.load(first + i_n), i_full_first, stride_qt, stride_ot, T, scale_2, D, BD, BM, True,
    )  # fmt: skip
    b_dk, b_dv = _add_grad_key(
        b_dk, b_dv, b_k, b_v, b_end, o_n, p_q, p_do, p_lse, p_delta,
        i_full_first, i_full_stop, stride_qt, stride_ot, T, scale_2, D, BD, BM, False,
    )  # fmt: skip
    b_dk, b_dv = _add_grad_key(
        b_dk, b_dv, b_k, b_v, b_end, o_n, p_q, p_do, p_lse, p_delta,
        i_full_stop, tl.load(stop + i_n), stride_qt, stride_ot, T, scale_2, D, BD, BM, True,
    )  # fmt: skip
    _store_rows(dk + i_h * D, b_dk * scale, o_n, stride_ot, T, D, BD)
    _store_rows(dv + i_h * D, b_dv, o_n, stride_ot, T, D, BD)
