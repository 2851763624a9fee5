"""Block floating point: small floats that share a scale, as simulated formats.

Shapes: x [m, i] in blocks g of 32 (mx) or 16 (nv) neighbours of a row.

    mxfp8    x ~ e4m3(x / 2^e) 2^e        e = floor(log2 max|g|) - 8          one byte e + 127 per block
    mxfp4    x ~ e2m1(x / 2^e) 2^e        e = floor(log2 max|g|) - 2
    nvfp4    x ~ e2m1(x / (s t)) s t      s = e4m3(max|g| / (6 t))            t = max|x| / (6 * 448)

(The mx formats: OCP Microscaling 1.0, arXiv 2310.10537; values beyond the largest element saturate.
nvfp4: NVIDIA's two-level scaling.) e2m1 holds 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; ties
go to the even code. Of a weight t is one number; of activations it is one per row, so that rows do
not see each other (ours: hardware takes one per tensor).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

E4M3_MAX = 448.0
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MAX = E2M1[-1]
EXPONENT_BIAS = 127
SMALLEST_E4M3 = 2.0**-9  # a block of zeros divides by something
OUTER_FLOOR = 1e-30

# A tie between codes j and j + 1 goes to the even one: below odd j the border moves down by one ulp.
_BORDERS = [
    (a + b) / 2 * (1 - j % 2 * 2.0**-24) for j, (a, b) in enumerate(itertools.pairwise(E2M1))
]


def e2m1_codes(x: Tensor) -> Tensor:
    """Nearest codes of x, uint8 in 0 .. 15: the sign is the eighth."""
    magnitudes = x.abs().float()
    codes = 8 * (x < 0).to(torch.uint8) + len(_BORDERS)
    for border in torch.tensor(_BORDERS, dtype=torch.float32, device=x.device):
        codes -= (magnitudes <= border).view(torch.uint8)  # faster than a search per element
    return codes


def e2m1_values(codes: Tensor) -> Tensor:
    """What codes stand for, float32."""
    values = torch.tensor([*E2M1, *(-v for v in E2M1)], device=codes.device)
    return values[codes.long()]


def elements(x: Tensor, kind: str) -> Tensor:
    """Codes of scaled elements, beyond the largest one saturated: float8_e4m3fn or e2m1's uint8."""
    if kind == "mxfp8":
        return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return e2m1_codes(x)


def element_values(codes: Tensor) -> Tensor:
    """What elements stand for before scaling, float32."""
    return codes.float() if codes.dtype == torch.float8_e4m3fn else e2m1_values(codes)


def block_scales(peak: Tensor, kind: str, outer: Tensor | None) -> Tensor:
    """Stored scales of blocks whose largest magnitudes are `peak` [..., g].

    uint8 exponents for mx, float8_e4m3fn for nv, which needs `outer`, its t.
    """
    if kind == "nvfp4":
        assert outer is not None
        scale = peak / E2M1_MAX / outer
        return scale.clamp(SMALLEST_E4M3, E4M3_MAX).to(torch.float8_e4m3fn)
    largest = 8 if kind == "mxfp8" else 2  # exponent of the largest element's power of two
    exponent = torch.frexp(peak).exponent - 1 - largest
    return (exponent + EXPONENT_BIAS).clamp(1, 254).to(torch.uint8)


def steps(scale: Tensor, outer: Tensor | None) -> Tensor:
    """What stored scales multiply elements by, float32."""
    if scale.dtype == torch.uint8:
        return (scale.int() << 23).view(torch.float32)  # the bits of that power of two
    assert outer is not None
    return scale.float() * outer


def outer_scale(peak: Tensor) -> Tensor:
    """t of nvfp4 from the largest magnitude."""
    return (peak / (E2M1_MAX * E4M3_MAX)).clamp(min=OUTER_FLOOR)


def rounded_blocks(x: Tensor, kind: str, block: int) -> Tensor:
    """What the codes of activations x [m, i] stand for, float32."""
    blocks = x.float().reshape(len(x), -1, block)  # [m, g, b]
    peak = blocks.abs().amax(-1)  # [m, g]
    outer = outer_scale(peak.amax(-1, keepdim=True)) if kind == "nvfp4" else None  # [m, 1]
    step = steps(block_scales(peak, kind, outer), outer)[..., None]
    return (element_values(elements(blocks / step, kind)) * step).reshape(x.shape)
