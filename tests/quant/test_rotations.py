"""T1 to T4 of the specification: greedy block rotations. Each is shown to fail on a broken variant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.conformance import synthetic
from quant.rotations import (
    base_rotation,
    block_rotation,
    generator_of,
    greedy_rotation,
    reflection,
    zigzag,
)
from quant.rounding import round_to_nearest, rounded_rows
from quant.schema import Format
from quant.transforms import (
    BlockRotation,
    block_of,
    in_blocks,
    incoherence,
    to_input,
    to_weight,
)

WIDTHS = (96, 144, 192, 1152)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spiked(channels=1152, rows=128, seed=0):
    """Twelve heavy channels and one spike."""
    x = torch.randn(rows, channels, generator=seeded(seed))
    x[:, torch.randperm(channels, generator=seeded(seed + 1))[:12]] *= 20
    x[3, 5] = 200
    return x


# T1


def check_orthogonal(rotation):
    """Within rounding of float32."""
    r = rotation.double()
    assert float((r @ r.T - torch.eye(len(r))).abs().max()) <= 1e-5


def check_chain(blocks, x, w):
    """X W^T is left alone."""
    exact = x.double() @ w.double().T
    found = to_input(x, None, None, blocks) @ to_weight(w, None, None, blocks).T
    assert float((found - exact).abs().max() / exact.abs().max()) <= 1e-5


@pytest.mark.parametrize("width", WIDTHS)
def test_t1_the_rotations_are_orthogonal_and_the_product_is_left_alone(width):
    x, w = spiked(width), synthetic.weight(24, width, 0)
    blocks = block_rotation(x, 0, "input")
    assert len(blocks.first) == {96: 32, 144: 16, 192: 64, 1152: 128}[width]
    assert torch.equal(blocks.order.sort().values, torch.arange(width))
    check_orthogonal(blocks.first)
    check_orthogonal(blocks.second)
    check_chain(blocks, x, w)
    stretched = blocks._replace(first=blocks.first * 1.001)
    with pytest.raises(AssertionError):
        check_orthogonal(stretched.first)
    with pytest.raises(AssertionError):
        check_chain(stretched, x, w)
    twice = blocks.order.clone()
    twice[0] = twice[1]
    with pytest.raises(AssertionError):
        check_chain(blocks._replace(order=twice), x, w)


@pytest.mark.parametrize("b", [2, 16, 128])
def test_t1_the_base_spreads_its_first_channel_evenly(b):
    even = torch.full((b,), b**-0.5, dtype=torch.float64)
    torch.testing.assert_close(reflection(b)[:, 0], even)
    base = base_rotation(b, seeded())
    torch.testing.assert_close(base[:, 0], even)
    check_orthogonal(base)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(torch.linalg.qr(torch.randn(b, b)).Q[:, 0].double(), even)


@pytest.mark.parametrize(
    ("width", "most", "block"),
    [(1152, 128, 128), (1152, 64, 64), (96, 128, 32), (63, 128, 1), (100, 3, 2)],
)
def test_blocks_divide_the_width(width, most, block):
    assert block_of(width, most) == block


def test_a_width_without_an_even_divisor_is_only_permuted():
    blocks = block_rotation(spiked(63), 0, "input")
    assert torch.equal(blocks.first, torch.ones(1, 1))
    check_chain(blocks, spiked(63), synthetic.weight(8, 63, 0))


# T2


def spread(x):
    return float(x.max() - x.min())


def check_no_worse(x, rotation):
    assert spread(in_blocks(x, rotation)) <= spread(x) * (1 + 1e-6)


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10_000), flat=st.booleans())
def test_t2_the_greedy_rotation_never_widens_the_range(seed, flat):
    x = torch.randn(40, 64, generator=seeded(seed))
    x = x.sign() if flat else x
    rotation, peaks = greedy_rotation(x, 32, seeded(seed))
    check_no_worse(x, rotation)
    assert spread(in_blocks(x, rotation)) == pytest.approx(min(peaks), rel=1e-4)


def test_t2_a_spike_is_lowered_and_a_rotation_at_any_price_is_caught():
    x = spiked()
    rotation, _ = greedy_rotation(x, 128, seeded())
    assert spread(in_blocks(x, rotation)) < 0.5 * spread(x)
    signs = torch.randn(64, 128, generator=seeded()).sign()
    with pytest.raises(AssertionError):
        check_no_worse(signs, base_rotation(128, seeded()))  # the first factor, whatever it does


# T3


def unevenness(absmax, b=128):
    """Coefficient of variation of the blocks' mean absmax."""
    means = absmax.reshape(-1, b).mean(1)
    return float(means.std() / means.mean())


def check_even(x, order, times=10):
    absmax = x.abs().amax(0)
    assert unevenness(absmax[order]) * times <= unevenness(absmax)


def test_t3_the_permutation_evens_the_blocks_out():
    x = spiked()
    rotated = in_blocks(x, greedy_rotation(x, 128, seeded())[0])
    absmax = rotated.abs().amax(0)
    order = zigzag(absmax, 9)
    check_even(rotated, order)
    inside = absmax[order].reshape(9, 128)
    assert bool((inside[:, 1:] <= inside[:, :-1]).all()), "falling within each block"
    with pytest.raises(AssertionError):  # dealt one way only would do; not dealt at all does not
        check_even(rotated, absmax.argsort(descending=True))


def test_t3_channels_are_dealt_back_and_forth():
    order = zigzag(torch.arange(12.0, 0, -1), 3)
    assert order.tolist() == [0, 5, 6, 11, 1, 4, 7, 10, 2, 3, 8, 9]


# T4


def check_each_part_helps(x, w, blocks):
    """Incoherence and the error of 4-bit products: raw > R1 > R1 P R2."""

    def error(a, b):
        fmt, act = Format(bits=4, symmetric=False), Format(bits=4)
        y = rounded_rows(a, act) @ round_to_nearest(b, fmt).dequantize(4).T
        return float((y - x @ w.T).square().sum())

    stages = [(x, w)]
    stages += [(in_blocks(x, blocks.first), in_blocks(w, blocks.first)), (blocks(x), blocks(w))]
    psi = [float(incoherence(a).mean()) for a, _ in stages]
    errors = [error(a, b) for a, b in stages]
    assert psi[0] > psi[1] > psi[2]
    assert errors[0] > errors[1] > errors[2]


def test_t4_rotation_then_permutation_then_rotation_lowers_incoherence_and_error():
    x, w = spiked(rows=512), synthetic.weight(96, 1152, 0)
    blocks = block_rotation(x, 0, "input")
    check_each_part_helps(x, w, blocks)
    undone = BlockRotation(blocks.first, torch.arange(1152), blocks.first.T.contiguous())
    with pytest.raises(AssertionError):
        check_each_part_helps(x, w, undone)


def by_definition(x, b, generator):
    """The search as its docstring says it, without anything that saves time."""
    base, left = base_rotation(b, generator), x.reshape(-1, b).float()
    peaks, factors = [spread(left)], []
    while len(peaks) <= 256 and len(peaks) - peaks.index(min(peaks)) <= 16:
        swapped = torch.arange(b)
        column = int(left.abs().amax(0).argmax())
        swapped[[0, column]] = swapped[[column, 0]]
        factors.append(base[swapped][:, swapped])
        left = left @ factors[-1].float()
        peaks.append(spread(left))
    product = torch.eye(b, dtype=torch.float64)
    for factor in factors[: peaks.index(min(peaks))]:
        product = product @ factor
    return product.float(), peaks


@settings(max_examples=16, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.sampled_from([1, 2, 16, 64, 128]), heavy=st.booleans())
def test_the_search_is_bit_for_bit_the_one_of_its_definition(seed, b, heavy):
    x = torch.randn(40, 128, generator=seeded(seed))
    x[:, :3] *= 20 if heavy else 1
    rotation, peaks = greedy_rotation(x, b, seeded(seed))
    expected, found = by_definition(x, b, seeded(seed))
    assert torch.equal(rotation, expected)
    assert peaks == found


def test_what_is_drawn_once_for_an_input_is_what_is_drawn_each_time():
    for x in (spiked(192, seed=1), spiked(192, seed=2)):
        generator = generator_of(5, "input")
        first, _ = greedy_rotation(x, 64, generator)
        blocks = block_rotation(x, 5, "input")
        second, _ = greedy_rotation(in_blocks(x, first)[:, blocks.order], 64, generator)
        assert torch.equal(blocks.first, first)
        assert torch.equal(blocks.second, second)
    assert not torch.equal(block_rotation(x, 5, "another").first, blocks.first)
