"""The probe of windows: which runs of steps it looks at, that it judges by rows held back, and bytes."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqviz.catalogue import size_report
from quant.calibration import calibrate
from quant.conformance import synthetic
from quant.loading import load_model
from quant.methods import trdq
from quant.probes import MOST_BYTES, load_probe
from quant.schema import parse_bits
from quant.sizes import open_target, size_of

windows = load_probe("windows")
FIXED = trdq.Options(alpha=0.3, windows=1)


@given(steps=st.integers(1, 80), data=st.data())
def test_the_runs_hold_all_that_can_be_asked_for(steps, data):
    runs = windows.intervals_of(steps, 4)
    assert runs[0] == (0, steps)
    assert len(set(runs)) == len(runs)
    assert all(0 <= a < b <= steps for a, b in runs)
    for count in (k for k in (1, 2, 4) if k <= steps):
        assert set(itertools.pairwise(steps * k // count for k in range(count + 1))) <= set(runs)
    if steps <= windows.MOST_SINGLE:
        assert {(s, s + 1) for s in range(steps)} <= set(runs)
    asked = sorted(data.draw(st.sets(st.integers(1, steps - 1)))) if steps > 1 else []
    own = windows.intervals_of(steps, tuple(asked))
    assert own[0] == (0, steps)
    assert set(own) == {(0, steps), *itertools.pairwise([0, *asked, steps])}


def test_a_window_is_judged_by_rows_that_its_transform_was_not_found_on():
    x = synthetic.activations(64, 16, 3, 0)
    fit, held = windows._halves(synthetic.statistics(x))
    assert len(fit.rows) == len(held.rows) == 24
    for step in range(3):
        both = torch.cat([s.rows[s.row_steps == step] for s in (fit, held)])
        assert torch.equal(both.sort(0).values, x[step].sort(0).values)
    group = synthetic.group(64, (32,), synthetic.plan(4, 4), 0)
    _, own = windows._errors(group, fit, fit, FIXED, (0.3,))
    _, other = windows._errors(group, fit, held, FIXED, (0.3,))
    assert own < other, "on its own rows a transform flatters itself"


def changing(steps, rows, seed):
    """Other channels are large in the second half of the steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, rows, 64, generator=generator)
    x[: steps // 2, :, :4] *= 30
    x[steps // 2 :, :, 32:36] *= 30
    return x


@pytest.mark.parametrize("changes", [True, False])
def test_windows_leave_less_where_channels_change_and_not_where_they_stay(changes):
    x = changing(4, 64, 0)
    if not changes:
        x = x[:1].expand(4, -1, -1) + 0.01 * torch.randn(4, 64, 64, generator=torch.manual_seed(0))
    fit, held = windows._halves(synthetic.statistics(x))
    group = synthetic.group(64, (48,), synthetic.plan(4, 4), 0)
    _, whole = windows._errors(group, fit, held, FIXED, trdq.ALPHAS)
    halves = [
        windows._errors(group, fit.during(run), held.during(run), FIXED, trdq.ALPHAS)[1]
        for run in ((0, 1), (2, 3))
    ]
    two = sum(halves) / 2
    assert (two < 0.8 * whole) if changes else (two > 0.9 * whole)


@pytest.fixture(scope="module")
def probed(tiny_dit):
    model = load_model(str(tiny_dit))
    sampler, samples = model.sampler(), model.samples((0, 1))
    seen = calibrate(model, samples, sampler)
    done = []
    options = trdq.Options(alpha=0.3)
    found = windows.measure(
        model, seen, sampler, samples, method="trdq", bits=parse_bits("w4a8"),
        options=options, on_step=lambda *at: done.append(at),
    )  # fmt: skip
    return found, done


def test_what_it_says_is_small_plain_and_whole(probed):
    found, done = probed
    assert len(json.dumps(found, allow_nan=False)) < MOST_BYTES
    inputs, intervals = len(found["inputs"]), len(found["intervals"])
    for table in ("error", "alpha"):
        assert {len(row) for row in found[table]} == {intervals}
        assert len(found[table]) == inputs == found["of_inputs"]
    assert all(0 < e < 1 for row in found["error"] for e in row)
    assert {a for row in found["alpha"] for a in row} == {0.3}, "a given alpha is not searched"
    assert done[-1][0] == done[-1][1] == inputs * intervals
    assert done == sorted(done)


def test_log_snr_rises_along_the_steps(probed):
    found, _ = probed
    snr = found["log_snr"]
    assert snr == sorted(snr)
    assert snr[0] < 0 < snr[-1]


def test_bytes_are_those_that_dqviz_size_says(probed, tiny_dit):
    found, _ = probed
    memory = found["memory"]
    target, bits = open_target(str(tiny_dit)), parse_bits("w4a8")
    for tier, count in itertools.product("ABC", (1, 2, 4)):
        said = size_of(target, "trdq", bits, options={"tier": tier, "windows": count})
        assert memory["tiers"][tier]["disk"][count - 1] == said.total_bytes
        assert memory["full"] == said.fp16_bytes
    reported = size_report(str(tiny_dit), "trdq", "w4a8", None, {"windows": 2})
    for way in reported["alternatives"]:
        held = memory["tiers"][way["options"]["tier"]]["resident"]
        assert held[1] == way["memory"]["resident_bytes"]
    for own in memory["tiers"].values():
        assert len(own["disk"]) == len(own["resident"]) == len(found["timesteps"])
    assert len(set(memory["tiers"]["B"]["disk"])) == 1, "tier B stores one of everything"
    wrong = size_of(target, "trdq", bits, options={"tier": "C", "windows": 2})
    assert memory["tiers"]["C"]["disk"][3] != wrong.total_bytes, "the comparison compares"
