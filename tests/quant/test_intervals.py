"""Bootstrap intervals: symmetries as properties, coverage by simulation, claims by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.errors import BadInput
from quant.intervals import bootstrap, paired_difference, proportion

values = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=24)
fast = settings(max_examples=30, deadline=None)


@fast
@given(values, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(x: list[float], random):
    shuffled = list(x)
    random.shuffle(shuffled)
    assert bootstrap(x, resamples=400) == bootstrap(shuffled, resamples=400)


@fast
@given(values)
def test_the_interval_holds_the_mean_and_stays_within_the_values(x: list[float]):
    found = bootstrap(x, resamples=400)
    slack = 1e-6 * (1 + max(map(abs, x)))
    assert min(x) - slack <= found.lo <= found.mean + slack
    assert found.mean - slack <= found.hi <= max(x) + slack


@fast
@given(values, st.floats(-100, 100, width=32), st.sampled_from([-2.0, -1.0, 0.5, 4.0]))
def test_the_interval_moves_and_scales_with_the_values(x: list[float], shift: float, scale: float):
    plain = bootstrap(x, resamples=400)
    moved = bootstrap(np.array(x) * scale + shift, resamples=400)
    ends = sorted([plain.lo * scale + shift, plain.hi * scale + shift])
    assert [moved.lo, moved.hi] == pytest.approx(ends, rel=1e-6, abs=1e-6)


@fast
@given(
    st.lists(
        st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)),
        min_size=16,
        max_size=24,
    )
)
def test_swapping_the_runs_reflects_everything(pairs: list[tuple[float, float]]):
    a, b = zip(*pairs)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert [there.diff.mean, there.diff.lo, there.diff.hi] == pytest.approx(
        [-back.diff.mean, -back.diff.hi, -back.diff.lo], abs=1e-9
    )
    assert there.win_rate == pytest.approx(1 - back.win_rate)
    swapped = {"a better": "b better", "b better": "a better"}
    assert there.claim == swapped.get(back.claim, back.claim)
    lower = paired_difference(a, b, better="lower")
    assert lower.claim == swapped.get(there.claim, there.claim)
    assert lower.win_rate == pytest.approx(back.win_rate)


@pytest.mark.parametrize("n", [16, 64])
def test_the_interval_covers_the_true_mean_about_as_often_as_it_says(n: int):
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        found = bootstrap(rng.normal(2.0, 1.0, size=n), resamples=1000, seed=trial)
        hits += found.lo <= 2.0 <= found.hi
    assert 0.88 <= hits / 300 <= 0.98  # 95 % less what a percentile interval of few samples lacks


def test_the_interval_agrees_with_the_normal_one():
    x = np.random.default_rng(0).normal(size=400)
    found = bootstrap(x)
    half = 1.96 * x.std() / np.sqrt(400)
    assert found.lo == pytest.approx(x.mean() - half, abs=0.05 * half)
    assert found.hi == pytest.approx(x.mean() + half, abs=0.05 * half)


def test_large_sets_are_resampled_in_pieces():
    x = np.arange(300_000, dtype=float)
    found = bootstrap(x, resamples=40)
    assert found.lo < x.mean() < found.hi
    assert found.hi - found.lo < 2_000


def test_one_value_has_a_mean_and_no_interval():
    assert bootstrap([2.5]).to_json() == {"mean": 2.5, "lo": None, "hi": None, "n": 1}


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_no_interval_without_finite_values(bad: list[float]):
    with pytest.raises(BadInput):
        bootstrap(bad)


@pytest.mark.parametrize(
    ("n", "strength", "enough", "claim"),
    [
        (15, "none", False, "too few samples"),
        (16, "smoke", True, "a better"),
        (63, "smoke", True, "a better"),
        (64, "claim", True, "a better"),
    ],
)
def test_claims_need_samples(n: int, strength: str, enough: bool, claim: str):
    b = np.random.default_rng(0).normal(size=n)
    found = paired_difference(b + 1, b)
    assert (found.strength, found.enough, found.claim) == (strength, enough, claim)
    assert found.win_rate == 1


def test_no_claim_where_the_interval_holds_zero():
    noise = np.random.default_rng(0).normal(size=64)
    found = paired_difference(noise, np.zeros(64))
    assert found.diff.lo < 0 < found.diff.hi
    assert found.claim == "no difference shown"


def test_equal_runs_tie():
    x = np.random.default_rng(0).normal(size=64)
    found = paired_difference(x, x)
    assert (found.win_rate, found.diff.mean, found.worst_decile) == (0.5, 0, 0)
    assert found.claim == "no difference shown"


def test_pairs_are_compared_not_means():
    """Samples that differ by 20 dB among themselves hide a 0.1 dB gain from an unpaired interval."""
    b = np.linspace(20, 40, 64)
    a = b + np.random.default_rng(0).normal(0.1, 0.05, size=64)
    assert bootstrap(a).lo < bootstrap(b).hi
    assert paired_difference(a, b).claim == "a better"


def test_the_worst_decile_is_what_the_first_run_loses():
    gains = np.array([-5.0] * 8 + [1.0] * 56)
    assert paired_difference(gains, np.zeros(64)).worst_decile == pytest.approx(-5)
    assert paired_difference(-gains, np.zeros(64), better="lower").worst_decile == pytest.approx(5)


def test_identical_pictures_count_as_perfect():
    """None is what JSON has for the PSNR of identical pictures."""
    both = paired_difference([None] * 16, [None] * 16)
    assert (both.diff.mean, both.unbounded, both.win_rate) == (0, 0, 0.5)
    only = paired_difference([None] * 16, [30.0] * 16)
    assert (only.diff, only.unbounded, only.win_rate, only.claim) == (None, 16, 1, "a better")
    against = paired_difference([None] * 4 + [30.0] * 60, [40.0] * 4 + [31.0] * 60)
    assert against.diff.hi < 0  # b is better wherever the difference has a size ...
    assert against.claim == "no difference shown"  # ... but a is perfect on four samples


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan")] * 2, [1.0, 2.0])]
)
def test_unpaired_values_are_refused(a: list[float], b: list[float]):
    with pytest.raises(BadInput):
        paired_difference(a, b)


def test_a_share_has_an_honest_interval_at_its_ends():
    assert proportion(16, 16).lo == pytest.approx(0.8064, abs=1e-3)  # Wilson's value
    assert proportion(16, 16).hi == 1
    assert proportion(0, 16).hi == pytest.approx(1 - 0.8064, abs=1e-3)
    half = proportion(50, 100)
    assert (half.lo, half.hi) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    with pytest.raises(BadInput):
        proportion(3, 2)
