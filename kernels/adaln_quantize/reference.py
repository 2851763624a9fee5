"""Adaptive LayerNorm (adaLN) and the quantization of its output in one pass: the definition.

Shapes: x [b, t, c]; shift, scale [b, c] from the adaLN linear; s, signs [c]; codes [b t, c].

    n  = (x - mean x) / sqrt(var x + eps)       over the channels; var divides by c; no affine part
    y  = n (1 + scale) + shift                  per sample
    x' = (y / s) diag(signs) H / sqrt(c)        channel scale and rotation, each where it is given
    codes, scales, zeros of x' as in `kernels.quantize_rows`

DiT's blocks (Peebles & Xie 2023, https://arxiv.org/abs/2212.09748) have two of these, before attention and MLP;
s and the rotation are those of `kernels.hadamard` and a quantization method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hadamard import hadamard
from ..quantize_rows import RowCodes, quantize_rows


def values(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    channel_scale: Tensor | None,
    signs: Tensor | None,
    eps: float,
) -> Tensor:
    """x' [b t, c], in float32, or in float64 where x is float64."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    n = F.layer_norm(x.to(dtype), x.shape[-1:], eps=eps)
    y = n * (1 + scale.to(dtype)[:, None]) + shift.to(dtype)[:, None]  # [b, t, c]
    if channel_scale is not None:
        y = y / channel_scale.to(dtype)
    if signs is not None:
        y = hadamard(y, signs.to(dtype), backend="simulate")
    return y.flatten(0, 1)


def quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    channel_scale: Tensor | None,
    signs: Tensor | None,
    bits: int,
    symmetric: bool,
    eps: float,
) -> RowCodes:
    """Row codes of x'."""
    rows = values(x, shift, scale, channel_scale, signs, eps)
    return quantize_rows(rows, bits, symmetric, backend="simulate")
