"""V1 to V4 of the specification, each beside a broken variant: equivalence, Hadamard matrices, incoherence."""

from __future__ import annotations

import pytest
import torch

import kernels
from quant.balancing import static_statistic
from quant.conformance import synthetic
from quant.transforms import channel_scale, incoherence, random_signs, to_input, to_weight

ORDERS = (12, 20, 28, 36, 48, 96, 144, 1152, 1536, 2432, 3072, 3456, 4608, 5120, 13824, 15360)
WIDTHS = (96, 144, 192, 1152)


def transform(x: torch.Tensor, w: torch.Tensor, kind: str, alpha: float = 0.4):
    """Channel scale and signs of one kind for x [steps, rows, c]."""
    a = static_statistic(synthetic.statistics(x), "max")
    scale = channel_scale(a, w.abs().amax(0), alpha) if kind in ("scale", "both") else None
    signs = random_signs(w.shape[1], 0, "input") if kind in ("rotate", "both") else None
    return scale, signs


@pytest.mark.parametrize("kind", ["scale", "rotate", "both"])
@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_v1_transforms_change_nothing_in_floating_point(kind, channels, dtype, bound):
    x = synthetic.activations(channels, 32, 4, seed=channels)
    w = synthetic.weight(48, channels, seed=1)
    scale, signs = transform(x, w, kind)
    x, w = x.reshape(-1, channels).to(dtype), w.to(dtype)
    exact = x @ w.T
    changed = to_input(x, scale, signs) @ to_weight(w, scale, signs).T
    assert not torch.equal(to_input(x, scale, signs), x)
    assert float((changed - exact).abs().max() / exact.abs().max()) <= bound


@pytest.mark.parametrize("kind", ["scale", "rotate", "both"])
def test_v1_can_fail_a_weight_that_is_left_as_it_is(kind):
    x = synthetic.activations(192, 32, 4, seed=0)
    w = synthetic.weight(48, 192, seed=1)
    exact = x.reshape(-1, 192) @ w.T
    changed = to_input(x.reshape(-1, 192), *transform(x, w, kind)) @ w.T
    assert float((changed - exact).abs().max() / exact.abs().max()) > 0.1


def rows_of(order: int) -> torch.Tensor:
    """Some rows of H, [k, order]: the identity through the fast transform."""
    some = torch.linspace(0, order - 1, min(order, 192)).long().unique()
    eye = torch.zeros(len(some), order, dtype=torch.float64)
    eye[torch.arange(len(some)), some] = 1
    return kernels.hadamard(eye) * order**0.5


def are_hadamard(rows: torch.Tensor) -> bool:
    """Entries +-1 and H H^T = n I, exactly."""
    count, order = rows.shape
    entries = rows.round()
    return (
        float((rows - entries).abs().max()) < 1e-9
        and bool((entries.abs() == 1).all())
        and torch.equal(entries @ entries.T, order * torch.eye(count, dtype=torch.float64))
    )


@pytest.mark.parametrize("order", ORDERS)
def test_v2_the_rotation_is_a_hadamard_matrix(order):
    assert are_hadamard(rows_of(order))


def test_v2_can_fail_one_sign():
    rows = rows_of(1152)
    rows[3, 7] *= -1
    assert not are_hadamard(rows)


def test_v2_can_fail_blocks():
    """1504 channels are rotated in blocks of 32, which is orthogonal and not a Hadamard matrix."""
    assert not are_hadamard(rows_of(1504))


def profiles(channels: int, last: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Incoherence over ten steps: of the input, after a scale, and after the transform `last`."""
    x = synthetic.activations(channels, 128, 10, seed=3)
    w = synthetic.weight(64, channels, seed=3)
    raw, scaled, both = (
        incoherence(to_input(x, *way)).mean(1)
        for way in ((None, None), transform(x, w, "scale"), transform(x, w, last))
    )
    return raw, scaled, both


def is_flat(profile: torch.Tensor) -> bool:
    """At most 6 at every step, and much the same at all."""
    spread = (profile.max() - profile.min()) / profile.mean()
    return float(profile.max()) <= 6 and float(spread) < 0.25


@pytest.mark.parametrize("channels", [144, 192, 1152])
def test_v3_incoherence_falls_with_scale_and_again_with_rotation(channels):
    raw, scaled, both = profiles(channels, "both")
    assert both[0] < scaled[0] < raw[0]
    assert is_flat(both)


def test_v3_can_fail_a_scale_alone():
    """What moves from step to step is left to it."""
    assert not is_flat(profiles(1152, "scale")[2])


def test_v4_weight_incoherence_grows_with_alpha_unless_rotated():
    x = synthetic.activations(1152, 64, 4, seed=5)
    w = synthetic.weight(96, 1152, seed=5)
    alphas = (0.2, 0.4, 0.6, 0.8, 1.0)
    scaled = [float(incoherence(to_weight(w, *transform(x, w, "scale", a))).mean()) for a in alphas]
    both = [float(incoherence(to_weight(w, *transform(x, w, "both", a))).mean()) for a in alphas]
    assert scaled == sorted(scaled)
    assert scaled[-1] > 2 * scaled[0]
    assert max(both) < 6
    assert not max(scaled) < 6, "without the rotation the bound does not hold"
    backwards = [1 - a for a in alphas]  # the released code's newer convention, taken for this one
    mixed = [
        float(incoherence(to_weight(w, *transform(x, w, "scale", a))).mean()) for a in backwards
    ]
    assert mixed != sorted(mixed), "nor does the order"


def test_scale_survives_channels_that_are_always_zero():
    scale = channel_scale(torch.tensor([0.0, 1.0, 1e6]), torch.tensor([0.0, 1e-9, 3.0]), 0.5)
    assert bool(torch.isfinite(scale).all())
    assert bool((scale > 0).all())
    assert torch.equal(scale, scale.half().float()), "stored in float16 without loss"


def test_signs_depend_on_seed_and_input_alone():
    assert torch.equal(random_signs(64, 1, "a"), random_signs(64, 1, "a"))
    assert not torch.equal(random_signs(64, 1, "a"), random_signs(64, 1, "b"))
    assert not torch.equal(random_signs(64, 1, "a"), random_signs(64, 2, "a"))
    assert random_signs(4096, 0, "a").unique().tolist() == [-1, 1]


def test_incoherence_of_a_gaussian_row_and_of_zeros():
    row = torch.randn(64, 1152, generator=torch.Generator().manual_seed(0))
    assert 3.8 < float(incoherence(row).mean()) < 4.8
    assert float(incoherence(torch.zeros(1, 8))) == 1.0
