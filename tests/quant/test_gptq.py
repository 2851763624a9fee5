"""Hessian-guided rounding: what it promises against nearest rounding and against the best there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from quant import hessian as block
from quant.conformance import synthetic
from quant.conformance.trial import Trial
from quant.errors import BadInput
from quant.hessian import Compensation, Hessian, hessian, quadratic_error, round_with
from quant.rounding import grid_of, round_to_nearest
from quant.schema import Format
from quant.transforms import random_signs, to_input, to_weight

WAYS = [Compensation(), Compensation(by_activity=True), Compensation(damping=0.3, block=7)]
FORMATS = [
    Format(bits=4, symmetric=False),
    Format(bits=3),
    Format(bits=4, symmetric=False, granularity="group", group_size=8),
    Format(kind="fp8"),
    Format.of_kind("mxfp4"),
    Format.of_kind("nvfp4"),
]


def moments(width: int, seed: int, rows: int = 200) -> torch.Tensor:
    """Of inputs whose channels vary together, float64 [i, i]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator) @ torch.randn(4, width, generator=generator)
    x = x + 0.5 * torch.randn(rows, width, generator=generator)
    return (x.T @ x / rows).double()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_no_row_is_worse_than_nearest_and_the_whole_is_better(fmt, how):
    for seed in range(3):
        w, h = synthetic.weight(24, 64, seed), moments(64, seed)
        found = round_with(w, fmt, Hessian(h, h), how).dequantize(fmt.bits)
        nearest = round_to_nearest(w, fmt).dequantize(fmt.bits)
        ours, plain = quadratic_error(w - found, h), quadratic_error(w - nearest, h)
        assert bool((ours <= plain).all())
        assert float(ours.sum()) < 0.7 * float(plain.sum())


def test_that_check_fails_for_compensation_in_the_wrong_direction(monkeypatch):
    """Without the row-wise choice, and with errors pushed the wrong way, nearest rounding wins."""
    w, h = synthetic.weight(24, 64, 0), moments(64, 0)
    factor = block._factor
    wrong = lambda h, damping: 2 * torch.diag(factor(h, damping).diagonal()) - factor(h, damping)  # noqa: E731
    monkeypatch.setattr(block, "_factor", wrong)
    monkeypatch.setattr(block, "quadratic_error", lambda delta, h: torch.zeros(len(delta)))
    fmt = FORMATS[0]
    found = round_with(w, fmt, Hessian(h, h), Compensation()).dequantize(4)
    nearest = round_to_nearest(w, fmt).dequantize(4)
    assert quadratic_error(w - found, h).sum() > quadratic_error(w - nearest, h).sum()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_diagonal_hessian_leaves_nearest_rounding(fmt, how):
    w = synthetic.weight(16, 64, 1)
    h = torch.diag(torch.linspace(0.0, 5.0, 64).double())  # one channel was always zero
    found, nearest = round_with(w, fmt, Hessian(h, h), how), round_to_nearest(w, fmt)
    assert torch.equal(found.codes.float(), nearest.codes.float())
    assert torch.equal(found.scale.float(), nearest.scale.float())


@pytest.mark.parametrize("seed", range(4))
def test_brute_force_is_a_bound(seed):
    fmt, width = Format(bits=2, symmetric=False), 5
    w, h = synthetic.weight(3, width, seed), moments(width, seed)
    found = round_with(w, fmt, Hessian(h, h), Compensation()).dequantize(2)
    grid = grid_of(w, fmt)
    every = torch.tensor(list(itertools.product(range(4), repeat=width)), dtype=torch.uint8)
    for row in range(3):
        one = type(grid)(fmt, grid.scale[row : row + 1], grid.zero[row : row + 1], None, width)
        best = quadratic_error(w[row] - one.values(every), h).min()
        assert best <= quadratic_error((w - found)[row : row + 1], h)[0] * (1 + 1e-9)


def test_lazy_blocks_change_nothing():
    w, h, fmt = synthetic.weight(8, 64, 2), moments(64, 2), FORMATS[0]
    whole = round_with(w, fmt, Hessian(h, h), Compensation(block=64))
    for size in (1, 10, 32):
        assert torch.equal(
            round_with(w, fmt, Hessian(h, h), Compensation(block=size)).codes, whole.codes
        )


def test_the_hessian_follows_the_transform():
    made = Trial("rtn", synthetic.plan(4, 8), 0)
    seen = synthetic.statistics(made.calibrated)
    scale, signs = torch.linspace(0.5, 2, seen.rows.shape[1]), random_signs(192, 0, "x")
    plain, moved = hessian(made.group, seen, None, None), hessian(made.group, seen, scale, signs)
    delta = torch.randn(4, 192, generator=torch.Generator().manual_seed(0))
    there = to_weight(delta, scale, signs)  # a weight error, in the other basis
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(
            quadratic_error(delta, a), quadratic_error(there, b), rtol=1e-4, atol=0
        )
    rows = to_input(seen.rows, scale, signs).double()
    ratio = (rows @ there.double().T).square().sum() / (
        seen.rows.double() @ delta.double().T
    ).square().sum()
    assert float(ratio) == pytest.approx(1, rel=1e-4)


def test_chance_correlations_are_shrunk_away_and_real_ones_stay():
    made = Trial("rtn", synthetic.plan(4, 8), 0)
    noise = torch.randn(6, 40, 192, generator=torch.Generator().manual_seed(1))

    def kept(x):
        h = hessian(made.group, synthetic.statistics(x), None, None)
        off = ~torch.eye(192, dtype=torch.bool)
        return float(h.shrunk[off].norm() / h.exact[off].norm())

    assert kept(noise) < 0.1
    assert kept(made.calibrated) > 0.5


@pytest.mark.parametrize("transform", ["plain", "scale", "rotate", "both"])
def test_error_on_calibration_rows_is_at_most_that_of_nearest(transform):
    """The same change of basis, nearest rounding: `viditq` with the transform fixed."""
    for seed in range(3):
        options = {"transform": transform, "alpha": 0.5}
        ours = Trial("gptq", synthetic.plan(4, None), seed, options)
        nearest = Trial("viditq", synthetic.plan(4, None), seed, options)
        assert ours.error(ours.calibrated) <= nearest.error(nearest.calibrated) * (1 + 1e-5)
        assert ours.error() < nearest.error()


def test_it_needs_a_calibration():
    with pytest.raises(BadInput, match="calibrat"):
        Trial("gptq", synthetic.plan(4, 8), 0, seen=False)
