"""Attention with int8 scores in Triton: a program holds some queries of a head and passes over all keys once.

Before that `key_codes` writes K without its mean as int8 rows. Rows of Q are rounded by the program that holds them.
A head is cut in two, the largest power of two and the rest, which is padded to what one matrix instruction takes:
72 channels are 64 + 32 for the scores and 64 + 16 for the values, where one tile would be 128.

Bytes beside those of attention itself, for each key of d channels in 16 bits: 4 d read, twice the row, and d + 4 written,
rounded up to 16 (72: 288 and 84). Each block of queries then reads d bytes of a key where it would read 2 d.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import AMD_STAGES, Build
from ..triton_functions import codes_on, float_precision, loadable, row_codes, row_range
from . import reference
from .custom_op import LARGEST_HEAD

# Not specialized on: a size of 1 would be no tensor, and units say what is aligned.
KEY_SIZES = ("k_batch", "k_head", "k_row", "heads", "keys")
SIZES = (
    "q_batch",
    "q_head",
    "q_row",
    "v_batch",
    "v_head",
    "v_row",
    "batch",
    "heads",
    "queries",
    "keys",
)
ALIGNED = 8  # elements: strides in units of so many leave vectors of 16 bytes whole


@triton.jit(do_not_specialize=KEY_SIZES)
def _key_codes(
    k_ptr, mean_ptr, codes_ptr, scale_ptr, k_batch, k_head, k_row, heads, keys,
    D: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """k [b, h, t', D], mean [b h, D] -> codes int8 [b h, t', WIDTH], 0 beyond D, scale [b h, t']."""
    blocks = tl.cdiv(keys, ROWS)
    owner = (tl.program_id(0) // blocks).to(tl.int64)  # of b h
    j = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    k_ptr += owner // heads * k_batch * UNIT + owner % heads * k_head * UNIT
    inside = (j < keys)[:, None] & (column < D)[None, :]
    k = tl.load(
        k_ptr + j.to(tl.int64)[:, None] * (k_row * UNIT) + column[None, :], mask=inside, other=0.0
    )
    mean = tl.load(mean_ptr + owner * D + column, mask=column < D, other=0.0)
    y = tl.where(inside, k.to(tl.float32) - mean[None, :], 0.0)
    codes, scale, _ = row_codes(y, 127, True)
    row = owner * keys + j
    stored = (j < keys)[:, None] & (column < WIDTH)[None, :]
    tl.store(codes_ptr + row[:, None] * WIDTH + column[None, :], codes, mask=stored)
    tl.store(scale_ptr + row, scale, mask=j < keys)


@triton.jit
def _tile(
    rows, inside, START: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr, EVEN: tl.constexpr
):
    """[n, SIZE] of rows that pointers [n, 1] begin, from column START on; 0 beyond WIDTH, and outside unless EVEN."""
    column = START + tl.arange(0, SIZE)
    if START + SIZE <= WIDTH:
        if EVEN:
            x = tl.load(rows + column[None, :])
        else:
            x = tl.load(rows + column[None, :], mask=inside[:, None], other=0)
    else:
        mask = (column < WIDTH)[None, :]
        if not EVEN:
            mask = mask & inside[:, None]
        x = tl.load(rows + column[None, :], mask=mask, other=0)
    return x


@triton.jit
def _weighted(p, v, acc, PRECISION: tl.constexpr):
    """acc + P V, in V's 16 bits; in float32 where PRECISION names how."""
    if PRECISION == "":
        acc = tl.dot(p.to(v.dtype), v, acc)
    else:
        acc = tl.dot(p, v.to(tl.float32), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _store(y, acc, inside, START: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr):
    """acc [n, SIZE] into the rows y [n, 1] from column START on, none beyond D."""
    column = START + tl.arange(0, SIZE)
    stored = inside[:, None] & (column < D)[None, :]
    tl.store(y + column[None, :], acc.to(y.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=SIZES)
def _int_attention(
    q_ptr, codes_ptr, scale_ptr, v_ptr, y_ptr, q_batch, q_head, q_row, v_batch, v_head, v_row,
    batch, heads, queries, keys,
    D: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    V_REST: tl.constexpr, FACTOR: tl.constexpr, BOTH: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BM queries of one head; EVEN where BN divides the keys; BOTH: v and y hold two halves of `batch` each.

    Strides are in units of UNIT elements. FACTOR is log2(e) / sqrt(D), because powers are of 2.
    """
    blocks = tl.cdiv(queries, BM)
    owner = (tl.program_id(0) // blocks).to(tl.int64)  # of b h
    b, h = owner // heads, owner % heads
    i = tl.program_id(0) % blocks * BM + tl.arange(0, BM)
    at = tl.arange(0, BN)
    q_rows = q_ptr + b * q_batch * UNIT + h * q_head * UNIT + i.to(tl.int64)[:, None] * q_row * UNIT
    q = _tile(q_rows, i < queries, 0, MAIN, D, False).to(tl.float32)
    q_scale, zero = row_range(q, 127, True)
    if REST:
        rest = _tile(q_rows, i < queries, MAIN, REST, D, False).to(tl.float32)
        other, _ = row_range(rest, 127, True)
        # A scale that is nan stays: comparing with it is false.
        q_scale = tl.where((other <= q_scale) | (q_scale != q_scale), q_scale, other)
        q_rest = codes_on(rest, q_scale[:, None], zero[:, None], 127, True)
    q_codes = codes_on(q, q_scale[:, None], zero[:, None], 127, True)
    a = q_scale * FACTOR
    k_rows = codes_ptr + owner * keys * WIDTH + at[:, None] * WIDTH
    scales = scale_ptr + owner * keys + at
    v_rows = v_ptr + b * v_batch * UNIT + h * v_head * UNIT + at[:, None] * (v_row * UNIT)
    half = batch.to(tl.int64) * v_batch * UNIT
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    y = tl.zeros((BM, MAIN), tl.float32)
    if REST:
        y_rest = tl.zeros((BM, V_REST), tl.float32)
    if BOTH:
        y2 = tl.zeros((BM, MAIN), tl.float32)
        if REST:
            y2_rest = tl.zeros((BM, V_REST), tl.float32)
    for j0 in range(0, keys, BN):
        inside = at < keys - j0
        k = _tile(k_rows, inside, 0, MAIN, WIDTH, EVEN)
        s = tl.dot(q_codes, k.T, out_dtype=tl.int32)
        if REST:
            k = _tile(k_rows, inside, MAIN, REST, WIDTH, EVEN)
            s = tl.dot(q_rest, k.T, s, out_dtype=tl.int32)
        c = tl.load(scales) if EVEN else tl.load(scales, mask=inside, other=0.0)
        scores = s.to(tl.float32) * c[None, :]  # the power below takes the factor of the row
        if not EVEN:
            scores = tl.where(inside[None, :], scores, float("-inf"))
        now = tl.maximum(top, tl.max(scores, axis=1) * a)
        p = tl.exp2(scores * a[:, None] - now[:, None])
        before = tl.exp2(top - now)
        total = total * before + tl.sum(p, axis=1)
        top = now
        y = _weighted(p, _tile(v_rows, inside, 0, MAIN, D, EVEN), y * before[:, None], PRECISION)
        if REST:
            v = _tile(v_rows, inside, MAIN, V_REST, D, EVEN)
            y_rest = _weighted(p, v, y_rest * before[:, None], PRECISION)
        if BOTH:
            v = _tile(v_rows + half, inside, 0, MAIN, D, EVEN)
            y2 = _weighted(p, v, y2 * before[:, None], PRECISION)
            if REST:
                v = _tile(v_rows + half, inside, MAIN, V_REST, D, EVEN)
                y2_rest = _weighted(p, v, y2_rest * before[:, None], PRECISION)
        k_rows += BN * WIDTH
        scales += BN
        v_rows += BN * (v_row * UNIT).to(tl.int64)
    per = 1.0 / total[:, None]
    y_rows = y_ptr + ((b * queries + i)[:, None] * heads + h) * D
    _store(y_rows, y * per, i < queries, 0, MAIN, D)
    if REST:
        _store(y_rows, y_rest * per, i < queries, MAIN, V_REST, D)
    if BOTH:
        y_rows += batch.to(tl.int64) * queries * heads * D
        _store(y_rows, y2 * per, i < queries, 0, MAIN, D)
        if REST:
            _store(y_rows, y2_rest * per, i < queries, MAIN, V_REST, D)


def key_codes(k: Tensor) -> tuple[Tensor, Tensor]:
    """k [b, h, t', d] -> codes int8 [b, h, t', d up to a multiple of 16], scale float32 [b, h, t', 1] of K'."""
    b, h, keys, d = k.shape
    mean, k = reference.mean_key(k).float().contiguous(), loadable(k)
    constants = _key_constants(d, _unit(k))
    codes = torch.empty((b, h, keys, constants["WIDTH"]), dtype=torch.int8, device=k.device)
    scale = torch.empty((b, h, keys, 1), dtype=torch.float32, device=k.device)
    if codes.numel():
        grid = (b * h * triton.cdiv(keys, constants["ROWS"]),)
        strides = _strides(k, constants["UNIT"])
        _key_codes[grid](k, mean, codes, scale, *strides, h, keys, **constants)
    return codes, scale


def int_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the custom op."""
    (b, h, queries, d), keys = q.shape, k.shape[2]
    q, v = loadable(q), loadable(v)
    y = torch.empty((len(v), queries, h, d), dtype=v.dtype, device=v.device)
    if not y.numel():
        return y
    codes, scale = key_codes(k)
    both = len(v) > b and _at_once(d, v.dtype)
    constants = _constants(d, keys, both, min(_unit(q), _unit(v)), v.dtype)
    if torch.version.hip:
        constants["num_stages"] = min(AMD_STAGES, constants["num_stages"])
    grid = (b * h * triton.cdiv(queries, constants["BM"]),)
    strides = (*_strides(q, constants["UNIT"]), *_strides(v, constants["UNIT"]))
    for half, out in ((v, y),) if both else zip(v.split(b), y.split(b)):
        _int_attention[grid](q, codes, scale, half, out, *strides, b, h, queries, keys, **constants)
    return y


def _at_once(d: int, dtype: torch.dtype) -> bool:
    """Whether the sums of two halves fit into the registers of sm_80; else the scores are computed once for each."""
    return dtype != torch.float32 and _parts(d)[1] <= 16


def _unit(x: Tensor) -> int:
    """The unit of x's strides: a vector, where all of them are whole vectors."""
    return ALIGNED if all(stride % ALIGNED == 0 for stride in x.stride()[:3]) else 1


def _strides(x: Tensor, unit: int) -> tuple[int, int, int]:
    """Those of batch, heads and rows, in units."""
    return x.stride(0) // unit, x.stride(1) // unit, x.stride(2) // unit


def _width(d: int) -> int:
    """Bytes of a row of codes of d channels: whole vectors."""
    return -(-d // 16) * 16


def _parts(d: int) -> tuple[int, int]:
    """Columns of the two tiles of a head; 32 is the least of an 8-bit product, 16 of a 16-bit one."""
    main = max(32, 1 << (d.bit_length() - 1))
    rest = max(16, 1 << (d - main - 1).bit_length()) if d > main else 0
    return main, rest


def _key_constants(d: int, unit: int) -> dict[str, Any]:
    block = 1 << (_width(d) - 1).bit_length()
    return {
        "D": d,
        "WIDTH": _width(d),
        "UNIT": unit,
        "ROWS": 2048 // block,
        "BLOCK": block,
        "num_warps": 4,
    }


def _constants(d: int, keys: int, both: bool, unit: int, dtype: torch.dtype) -> dict[str, Any]:
    """Parts of a head, tile and launch options: the largest tile that spills nothing on sm_80."""
    main, rest = _parts(d)
    rows, columns, stages = 128, 64, 3
    if dtype == torch.float32:
        rows, columns, stages = 64, 16, 2
    elif both and rest:
        columns = 32
    elif both and main == LARGEST_HEAD:
        rows = 64
    return {
        "D": d,
        "WIDTH": _width(d),
        "UNIT": unit,
        "MAIN": main,
        "REST": rest and max(32, rest),
        "V_REST": rest,
        "FACTOR": math.log2(math.e) / math.sqrt(d),
        "BOTH": both,
        "EVEN": keys % columns == 0,
        "PRECISION": float_precision(dtype),
        "BM": rows,
        "BN": columns,
        "num_warps": 8,
        "num_stages": stages,
    }


KEY_TYPES = {
    "k_ptr": "*bf16",
    "mean_ptr": "*fp32",
    "codes_ptr": "*i8",
    "scale_ptr": "*fp32",
    **dict.fromkeys(KEY_SIZES, "i32"),
}


def _build(d: int, stream: str = "bf16", both: bool = False) -> Build:
    """Of 1024 keys, in bfloat16 or float32."""
    types = dict.fromkeys(("q_ptr", "v_ptr", "y_ptr"), f"*{stream}")
    types |= {"codes_ptr": "*i8", "scale_ptr": "*fp32", **dict.fromkeys(SIZES, "i32")}
    dtype = torch.float32 if stream == "fp32" else torch.bfloat16
    more = ", fp32" if stream == "fp32" else ", one map for two halves" if both else ""
    constants = _constants(d, 1024, both, ALIGNED, dtype)
    return Build(f"int8 scores, heads of {d}{more}", _int_attention, types, constants, "int8")


BUILDS = (
    Build("codes of keys, heads of 72", _key_codes, KEY_TYPES, _key_constants(72, ALIGNED)),
    *(_build(d, both=both) for d in (64, 72, 128) for both in (False, True)),
    _build(72, "fp32"),
)
