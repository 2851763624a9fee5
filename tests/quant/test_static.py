"""Static activation ranges: where they come from, which one runs at which step, what they cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant.conformance import synthetic
from quant.conformance.trial import CHANNELS, ONE, STEPS, TIMESTEPS, Trial
from quant.errors import BadInput
from quant.plans import HIGHEST, LOWEST, refined, steps_of
from quant.rounding import ranges_between, rounded_statically
from quant.schema import Format, SitePlan, Window
from quant.step import at, window_of

TWO = (Window(low=500, high=HIGHEST), Window(low=LOWEST, high=500))


@given(
    timesteps=st.lists(st.floats(-10, 1000, width=32), min_size=1, max_size=30),
    border=st.floats(1, 999),
)
def test_refined_windows_part_every_two_timesteps_and_keep_the_old_borders(timesteps, border):
    old = (Window(low=border, high=HIGHEST), Window(low=LOWEST, high=border))
    new = refined(old, timesteps)
    assert [w.high for w in new[1:]] == [w.low for w in new[:-1]]
    assert (new[0].high, new[-1].low) == (HIGHEST, LOWEST)
    owners = {t: window_of(new, t) for t in set(timesteps)}
    apart = {a for a in timesteps for b in timesteps if a != b and owners[a] == owners[b]}
    assert not apart or min(abs(a - b) for a in apart for b in apart if a != b) < 1e-4
    assert border in {w.low for w in new}
    assert sum(len(steps) for steps in steps_of(new, timesteps)) == len(timesteps)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_inside_the_range_are_within_half_a_step_and_others_are_clipped(symmetric, bits):
    x = torch.linspace(-3, 5, 96).repeat(2, 1)
    fmt = Format(bits=bits, symmetric=symmetric, granularity="tensor", static=True)
    made = ranges_between(x.min().view(1, 1), x.max().view(1, 1), fmt)
    zero = None if made.zero is None else made.zero[0]
    rounded = rounded_statically(x, fmt, made.scale[0], zero)
    slack = 0.5 if symmetric else 1.0  # a rounded zero moves the ends by half a step
    assert bool(((rounded - x).abs() <= slack * made.scale * (1 + 1e-5)).all())
    far = rounded_statically(10 * x, fmt, made.scale[0], zero)
    assert float(far.max()) <= 5 + float(made.scale)
    assert float(far.min()) >= -5 - float(made.scale)


@pytest.mark.parametrize("group_size", [None, 32])
def test_ranges_are_the_extremes_of_their_own_step(group_size):
    options = {} if group_size is None else {"granularity": "group", "group_size": group_size}
    made = Trial("static-step", synthetic.plan(8, 8), 0, options)
    layer = made.layers["site0"]
    assert len(made.plan.windows) == STEPS
    peaks = made.calibrated.abs().amax(1)  # [steps, c]
    expected = peaks.reshape(STEPS, -1, group_size or CHANNELS).amax(2) / 127
    torch.testing.assert_close(layer.act_scale, expected)


def test_a_window_without_a_calibrated_step_takes_all_of_them():
    windows = (Window(low=2000, high=HIGHEST), Window(low=LOWEST, high=2000))
    made = Trial("static-step", synthetic.plan(8, 8, 2), 0, {"ranges": "window"}, windows=windows)
    scale = made.layers["site0"].act_scale
    assert torch.equal(scale[0], scale[1])


def test_each_step_runs_on_its_own_range():
    made = Trial("static-step", synthetic.plan(4, 8), 0)
    layer, rows = made.layers["site0"], made.fresh[0]
    for step, t in enumerate(TIMESTEPS):
        fmt = made.plan.sites["site0"].activations[step]
        rounded = rounded_statically(rows, fmt, layer.act_scale[step], None)
        with at(t):
            torch.testing.assert_close(layer(rows), rounded @ layer.dequantized_weight().T)


@pytest.mark.parametrize("bits", [6, 8])
def test_finer_ranges_leave_less_error(bits):
    """Per step <= per half <= one for all; dynamic rows are finer still."""

    def error(key, windows, **options):
        plan = synthetic.plan(8, bits, len(windows))
        return sum(Trial(key, plan, s, options, windows=windows).error() for s in range(4))

    step = error("static-step", ONE)
    half = error("static-step", TWO, ranges="window")
    whole = error("static-step", ONE, ranges="window")
    assert error("rtn", ONE) < step < half < whole
    grouped = error("static-step", ONE, granularity="group")
    assert grouped < step


def test_that_order_breaks_when_steps_get_one_anothers_ranges():
    made = Trial("static-step", synthetic.plan(8, 8), 0)
    right = made.error()
    made.layers["site0"].act_scale = made.layers["site0"].act_scale.flip(0)
    assert made.error() > 3 * right


def test_asymmetric_ranges_serve_one_sided_inputs_better():
    plan = SitePlan(
        weight=Format(bits=8, symmetric=False), activations=(Format(bits=6, symmetric=False),)
    )
    made = Trial("static-step", plan, 0)
    assert made.layers["site0"].act_zero.shape == (STEPS, 1)
    assert made.error() < 1.1 * Trial("static-step", synthetic.plan(8, 6), 0).error()


def test_a_method_without_ranges_refuses_a_static_plan():
    static = Format(bits=8, granularity="tensor", static=True)
    plan = SitePlan(weight=Format(bits=8), activations=(static,))
    with pytest.raises(BadInput, match="static-step") as caught:
        Trial("rtn", plan, 0)
    assert "\n" not in str(caught.value)


def test_other_number_formats_have_no_static_ranges():
    fp8 = Format.of_kind("fp8")
    with pytest.raises(BadInput, match="for integers"):
        Trial("static-step", SitePlan(weight=fp8, activations=(fp8,)), 0)


def test_it_needs_a_calibration():
    with pytest.raises(BadInput, match="calibrat"):
        Trial("static-step", synthetic.plan(8, 8), 0, seen=False)
