"""Salience balancing: closed forms, and which steps it listens to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quant.conformance import synthetic
from quant.conformance.trial import Trial
from quant.errors import BadInput
from quant.methods.ptq4dit import salience, spearman


@given(st.lists(st.integers(0, 6), min_size=3, max_size=30), st.integers(0, 1000))
def test_rank_correlation_is_that_of_the_books_ties_included(values, seed):
    a = torch.tensor(values, dtype=torch.float32)
    w = torch.randint(0, 5, a.shape, generator=torch.Generator().manual_seed(seed)).float()
    if a.unique().numel() > 1 and w.unique().numel() > 1:
        assert spearman(a, w) == pytest.approx(float(stats.spearmanr(a, w).statistic), abs=1e-9)
    else:
        assert spearman(a, w) == 0.0


def test_steps_whose_large_channels_meet_small_weights_count_more():
    w = torch.linspace(1, 2, 64)
    along, against = w.clone(), w.flip(0)  # rho 1 and -1
    found = salience(torch.stack([along, against]), w)
    share = torch.softmax(torch.tensor([-1.0, 1.0]), 0)
    torch.testing.assert_close(found, share[0] * along + share[1] * against)
    assert share[1] > 7 * share[0]


def test_without_change_over_the_steps_it_is_the_common_scale():
    """Then every weighting gives the same salience: SmoothQuant with alpha 0.5."""
    a = torch.rand(64, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(salience(a.repeat(5, 1), torch.rand(64)), a)


def test_balanced_sides_have_one_salience():
    """max |X / s| and max |W s| are the same curve over the channels, where one step is calibrated."""
    made = Trial("ptq4dit", synthetic.plan(8, 8), 0)
    layer = made.layers["site0"]
    w = made.group.sites[0].weight.abs().amax(0)
    a = salience(made.calibrated.abs().amax(1), w)
    s = layer.channel_scale.float()
    ratio = (a / s) / (w * s)
    inside = (s > 2e-3) & (s < 9e2)
    torch.testing.assert_close(
        ratio[inside], ratio[inside].median().expand(int(inside.sum())), rtol=5e-3, atol=0
    )


def test_weights_of_the_wrong_sign_change_the_scale():
    """Weighing by exp(+rho) would listen to the other steps: the checks above can fail."""
    made = Trial("ptq4dit", synthetic.plan(8, 8), 0)
    w = made.group.sites[0].weight.abs().amax(0)
    w = w * made.calibrated[0].abs().amax(0)  # correlated with the first step, not with the last
    per_step = made.calibrated.abs().amax(1)
    rho = torch.tensor([spearman(a, w) for a in per_step])
    right, wrong = torch.softmax(-rho, 0), torch.softmax(rho, 0)
    assert right[0] < right[-1]
    assert wrong[0] > wrong[-1]
    torch.testing.assert_close(salience(per_step, w), (right[:, None] * per_step).sum(0))


def test_static_activations_are_one_range_of_the_balanced_input():
    made = Trial("ptq4dit", synthetic.plan(8, 8), 0, {"activations": "static"})
    layer = made.layers["site0"]
    balanced = layer.input_transform(made.calibrated)
    torch.testing.assert_close(layer.act_scale, balanced.abs().amax().view(1, 1) / 127)
    plain = Trial("static-step", synthetic.plan(8, 8), 0, {"ranges": "window"})
    assert made.error() < 0.5 * plain.error(), "balancing is what makes one range bearable"


def test_it_needs_a_calibration():
    with pytest.raises(BadInput, match="calibrat"):
        Trial("ptq4dit", synthetic.plan(8, 8), 0, seen=False)
