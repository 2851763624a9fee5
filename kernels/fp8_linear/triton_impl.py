"""Product of 8-bit floats and what comes after it in Triton: sums in registers, one store of y.

Tiles lie as in `kernels.int_linear`. Matrix units of sm_89 and sm_90 add products of 8-bit floats in about 14 bits
(SageAttention2, arXiv 2411.10958; DeepSeek-V3, arXiv 2412.19437, section 3.3.2), so that a long sum loses what its operands
still had. There they add the `BK` products of a step, and steps are added in float32 (PROMOTED). Units of sm_100 are taken to
add in float32.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..int_linear import tiles
from ..int_linear.epilogue import finish
from ..int_linear.launch import Ends, launched
from ..triton_functions import loadable, product_tile, row_pointers


@triton.jit
def _fp8_linear(
    codes_ptr, row_scale_ptr, data_ptr, scale_ptr, bias_ptr, gate_ptr, residual_ptr, y_ptr,
    codes_stride, data_stride, gate_stride, residual_stride, m, n, k, t,
    GELU: tl.constexpr, EVEN: tl.constexpr, PROMOTED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """codes [m, k], data [n, k] in float8e4nv; EVEN where BK divides k."""
    i0, j0 = product_tile(m, n, BM, BN)
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    at = tl.arange(0, BK)
    codes = row_pointers(codes_ptr, i0, m, codes_stride, BM) + at[None, :]
    data = row_pointers(data_ptr, j0, n, data_stride, BN) + at[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, k, BK):
        inside = (at < k - k0)[None, :]
        a = tl.load(codes) if EVEN else tl.load(codes, mask=inside, other=0.0)
        w = tl.load(data) if EVEN else tl.load(data, mask=inside, other=0.0)
        if PROMOTED:
            # The limit keeps the compiler for sm_89 from folding the addition into the product. With `acc` handed to the
            # product too, the one for sm_90 (Triton 3.7.1) adds what the unit found before it waits for it.
            acc += tl.dot(a, w.T, max_num_imprecise_acc=BK)
        else:
            acc = tl.dot(a, w.T, acc)
        codes += BK
        data += BK
    row_scale = tl.load(row_scale_ptr + i, mask=i < m, other=0.0)
    scale = tl.load(scale_ptr + j, mask=j < n, other=0.0)
    y = acc * row_scale[:, None] * scale[None, :]
    finish(
        y, y_ptr, bias_ptr, gate_ptr, residual_ptr, gate_stride, residual_stride, i0, j, m, n, t, GELU, BM
    )  # fmt: skip


def fp8_linear(
    codes: Tensor,
    row_scale: Tensor,
    data: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    gelu: bool,
    dtype: torch.dtype,
    tile: Mapping[str, Any] | None = None,
) -> Tensor:
    """As the custom op. `tile` replaces constants of the launch; None: those of `kernels.int_linear.tiles`."""
    (m, k), n = codes.shape, len(data)
    codes, data = loadable(codes), loadable(data)
    if tile is None and any(t is not None and t.element_size() > 2 for t in (gate, residual)):
        tile = {}  # tiles are measured with those in 16 bit, which take fewer registers
    elif tile is None:
        after = tiles.after(gelu, gate)
        tile = tiles.tile("fp8_linear", codes.device, m, k, n, after=after)
    constants = _constants(k, gelu, gate is not None, _promoted(codes.device))
    own = row_scale.contiguous(), data, scale.contiguous()
    ends = Ends(bias, gate, residual, None, None, dtype)
    return launched(_fp8_linear, codes, own, data, ends, {**constants, **tile}, branched=False)


def _promoted(device: torch.device) -> bool:
    """Whether the matrix unit of a device is taken to add in fewer bits than float32 has."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 10


def _constants(k: int, gelu: bool, gated: bool, promoted: bool) -> dict[str, Any]:
    """Tile and launch options; a gate and a residual take registers, and get a narrower tile."""
    return {
        "GELU": gelu,
        "EVEN": k % 128 == 0,
        "PROMOTED": promoted,
        "BM": 128,
        "BN": 64 if gated else 128,
        "BK": 128,
        "num_warps": 8,
        "num_stages": 3,
    }


def _build(
    name: str,
    *,
    gelu: bool = False,
    gated: bool = False,
    promoted: bool = True,
    stream: str = "bf16",
) -> Build:
    """As for DiT-XL/2, 1152 channels; `stream` is the type of outputs, gates and residuals."""
    types = {
        "codes_ptr": "*fp8e4nv",
        "row_scale_ptr": "*fp32",
        "data_ptr": "*fp8e4nv",
        "scale_ptr": "*fp32",
        "bias_ptr": "*fp32",
        "y_ptr": f"*{stream}",
    }
    types |= dict.fromkeys(("gate_ptr", "residual_ptr"), f"*{stream}") if gated else {}
    sizes = ("codes_stride", "data_stride", "gate_stride", "residual_stride", "n", "k", "t")
    types |= dict.fromkeys(sizes, "i32:16") | {"m": "i32"}
    constants = _constants(1152, gelu, gated, promoted)
    return Build(name, _fp8_linear, types, constants, "float8")


BUILDS = (
    _build("e4m3"),
    _build("e4m3, one long sum", promoted=False),
    _build("e4m3, GELU", gelu=True),
    _build("e4m3, gate and residual", gated=True),
    _build("e4m3, gate and residual, fp32", gated=True, stream="fp32"),
)
