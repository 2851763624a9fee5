"""What codes of a fused op must satisfy, where float32 sums may round one element the other way."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_codes_of(
    exact: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, bits: int, rtol: float = 1e-5
) -> None:
    """Codes stand for `exact` float64 [m, c] within half a scale, on the scale that the row needs."""
    symmetric = not len(zero)
    at = torch.zeros_like(scale) if symmetric else zero
    if symmetric:
        needed = exact.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    else:
        low, high = exact.amin(1, keepdim=True), exact.amax(1, keepdim=True)
        needed = (high.clamp(min=0) - low.clamp(max=0)) / (2**bits - 1)
    torch.testing.assert_close(scale.double(), needed.clamp(min=1e-8), rtol=2 * rtol, atol=0.0)
    error = (codes.double() - at.double()) * scale.double() - exact
    assert float((error.abs() / scale).max()) <= 0.5 + 200 * rtol


def assert_same_codes(
    got: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float = 1e-5
) -> None:
    """Scales agree to `rtol`, integers but for a share of 100 `rtol` that is off by one."""
    for a, b in ((got[0], expected[0]), (got[2], expected[2])):
        off = (a.double() - b.double()).abs()
        assert not off.numel() or float(off.max()) <= 1
        assert int((off > 0).sum()) <= 100 * rtol * off.numel()
    torch.testing.assert_close(got[1], expected[1], rtol=rtol, atol=0.0)
