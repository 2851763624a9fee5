"""T5 to T7 and T10 of the specification; each is shown to fail on a broken variant."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import DiTTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from quant.cards import load_method
from quant.checkpoint import save_checkpoint
from quant.conformance import synthetic, trial
from quant.conformance.trial import CHANNELS, STEPS, TIMESTEPS, Trial
from quant.errors import BadInput
from quant.group_layers import layers_of
from quant.layers import QuantLinear
from quant.plans import HIGHEST, LOWEST, uniform_plan, windows_between, windows_from
from quant.quantization import quantize
from quant.schema import Format, Plan, SitePlan, Window, parse_bits
from quant.site_tensors import Transform
from quant.sizes import predict_size, size_of
from quant.stages import stages_of
from quant.step import at, window_of

FIXED = {"alpha": 0.3}  # fast: nothing is searched


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# T5


def drifting(seed):
    """Inputs whose heavy channels are others in the second half of the steps."""
    x = torch.randn(STEPS, trial.ROWS + trial.FRESH, CHANNELS, generator=seeded(seed))
    order = torch.randperm(CHANNELS, generator=seeded(seed + 1))
    x[: STEPS // 2, :, order[:40]] *= 15
    x[STEPS // 2 :, :, order[40:80]] *= 15
    return x


def test_t5_a_transform_per_window_leaves_less_error_where_channels_change(monkeypatch):
    monkeypatch.setattr(trial, "inputs", drifting)
    plan = synthetic.plan(4, 4)
    single, double, swapped = 0.0, 0.0, 0.0
    for seed in range(2):
        single += Trial("trdq", plan, seed, {"windows": 1}).error()
        made = Trial("trdq", plan, seed, {"windows": 2})
        double += made.error()
        layer = made.layers["site0"]
        for name in ("channel_scale", "rotations", "order", "codes", "scale", "zero"):
            setattr(layer, name, layer.get_buffer(name).flip(0))
        layer._prepared.clear()
        swapped += made.error()
    assert double < 0.9 * single
    assert swapped > double, "each window's own transform is what helps"


def test_t5_with_one_window_nothing_differs(monkeypatch):
    plan, x = synthetic.plan(4, 4), synthetic.activations(CHANNELS, 64, 1, 0)
    group, seen = synthetic.group(CHANNELS, (32,), plan, 0), synthetic.statistics(x)
    module = load_method("trdq")
    window = (Window(low=LOWEST, high=HIGHEST),)
    whole = Plan(model="trial", windows=window, sites={"site0": plan})

    def layer(windows):
        options = module.Options(windows=windows)
        return layers_of(module, group, seen, whole, options, 0, dtype=torch.float32)["site0"][0]

    shared, own = layer(1), layer(4)
    assert (shared.transform.per_window, own.transform.per_window) == (False, True)
    assert torch.equal(shared(x), own(x))
    part = seen.during((0,)) if len(seen.count) > 1 else replace(seen, maximum=3 * seen.maximum)
    other = layers_of(module, group, part, whole, module.Options(), 0, dtype=torch.float32)
    assert not torch.equal(other["site0"][0](x), own(x)), "equal only for the same statistics"


# T6


def check_total(windows, t):
    """Exactly one window holds t, and it is the one that runs."""
    holding = [k for k, w in enumerate(windows) if t in w]
    assert holding == [window_of(windows, t)]


@pytest.mark.parametrize("count", [1, 2, 4, "step"])
def test_t6_every_timestep_is_in_exactly_one_window(count):
    made = Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "windows": count})
    windows = made.plan.windows
    assert len(windows) == (STEPS if count == "step" else count)
    borders = [b for w in windows[1:] for b in (w.high, w.high - 1e-3, w.high + 1e-3)]
    for t in (0.0, 1000.0, 999.999, 49.5, *borders, *TIMESTEPS):
        check_total(windows, t)


@pytest.mark.parametrize("starts", [(1,), (2, 5), (1, 2, 3, 4, 5)])
def test_t6_windows_begin_where_they_are_said_to(starts):
    made = Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "windows": starts})
    edges = [0, *starts, STEPS]
    assert made.group.steps == tuple(tuple(range(a, b)) for a, b in itertools.pairwise(edges))
    assert made.layers["site0"].codes.shape[0] == len(starts) + 1
    for t in (0.0, 1000.0, *TIMESTEPS):
        check_total(made.plan.windows, t)


def test_t6_equal_runs_are_the_same_windows_by_count_and_by_border():
    counted, said = (
        Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "windows": windows})
        for windows in (2, (STEPS // 2,))
    )
    assert counted.plan == said.plan
    assert torch.equal(counted.output("site0", counted.fresh), said.output("site0", said.fresh))


def test_borders_beyond_the_steps_are_one_clear_line():
    with pytest.raises(BadInput, match="begin with step 6 of a sampler of 6 steps") as caught:
        Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "windows": (2, STEPS)})
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="steps 1 to 5"):
        windows_from(TIMESTEPS, [0])


@given(
    t=st.floats(0, 1000),
    timesteps=st.lists(st.floats(0, 1000, width=32), min_size=4, max_size=30, unique=True),
)
def test_t6_for_any_float_and_any_sampler(t, timesteps):
    check_total(windows_between(sorted(timesteps, reverse=True), 4), t)


def test_t6_windows_of_integers_have_holes():
    released = [Window(low=50, high=99), Window(low=0, high=49)]  # [50, 99], [0, 49]
    with pytest.raises(AssertionError):
        check_total(released, 49.5)


# T7


def check_switching(made, x, tier):
    """In window k the layer is, bit for bit, the one that was made for k alone; in any order."""
    module = load_method("trdq")
    alone_in = module.Options(windows=1, tier=tier, **FIXED)
    seen, layer = synthetic.statistics(made.calibrated), made.layers["site0"]
    for k in (0, 3, 1, 2, 0):
        steps = made.group.steps[k]
        group, window = made.group.in_window(k), made.plan.windows[k : k + 1]
        plan = Plan(model="trial", windows=window, sites={s.name: s.plan for s in group.sites})
        alone = layers_of(
            module, group, seen.during(steps), plan, alone_in, 0, dtype=torch.float32
        )["site0"][0]
        with at(TIMESTEPS[steps[0]]):
            assert torch.equal(layer(x), alone(x)), f"window {k}"


@pytest.mark.parametrize("tier", ["A", "C"])
def test_t7_every_part_switches_with_the_window(tier, monkeypatch):
    plan = synthetic.plan(4, 8)
    made = Trial("trdq", plan, 0, {**FIXED, "tier": tier})
    x = made.fresh[0]
    check_switching(made, x, tier)
    layer = made.layers["site0"]
    parts = {"A": ("channel_scale", "rotations", "order")}
    for name in parts.get(tier, ("channel_scale", "rotations", "order", "codes", "scale", "zero")):
        whole = layer.get_buffer(name).clone()
        stale = whole.clone()
        stale[1:] = stale[0]  # that of the window that was initialised last
        setattr(layer, name, stale)
        layer._prepared.clear()
        with pytest.raises(AssertionError):
            check_switching(made, x, tier)
        setattr(layer, name, whole)
        layer._prepared.clear()
    check_switching(made, x, tier)


def test_t7_what_was_prepared_for_another_window_is_caught(monkeypatch):
    made = Trial("trdq", synthetic.plan(4, 8), 0, FIXED)

    def stale(self, name, window, make):
        return self._prepared.setdefault(name, make(0))

    monkeypatch.setattr(QuantLinear, "_once", stale)
    with pytest.raises(AssertionError):
        check_switching(made, made.fresh[0], "C")


def test_tiers_a_and_c_compute_with_the_same_integers():
    a, c = (Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "tier": tier}) for tier in "AC")
    assert torch.equal(a.output("site0", a.fresh), c.output("site0", c.fresh))
    stored = {n for n, _ in a.layers["site0"].named_buffers()}
    assert stored == {"weight", "bias", "channel_scale", "rotations", "order"}
    for k in range(4):
        assert torch.equal(a.layers["site0"].packed_weight(k).packed, c.layers["site0"].codes[k])


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_integer_arithmetic_equals_simulation_in_every_window(tier):
    outputs = []
    for backend in ("simulate", "integer"):
        made = Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "tier": tier})
        layer = made.layers["site0"]
        layer.backend = backend
        assert layer.why(64)[0] == backend
        outputs.append(made.output("site0", made.fresh))
    assert float((outputs[0] - outputs[1]).norm() / outputs[0].norm()) <= 1e-6


# T10


TIERS = [("A", 1), ("A", 4), ("B", 4), ("C", 1), ("C", 2), ("C", "step"), ("C", (1, 3))]


@pytest.mark.parametrize(("tier", "windows"), TIERS)
def test_t10_what_is_reported_is_what_is_stored(
    tier, windows, model, seen, sampler, tiny_dit, tmp_path
):
    options = {**FIXED, "tier": tier, "windows": windows}
    made = quantize(model, "trdq", uniform_plan(model, parse_bits("w4a8")), options, seen)
    report = save_checkpoint(made, model, tmp_path / "c")
    assert report == size_of(str(tiny_dit), "trdq", parse_bits("w4a8"), options=options)
    assert report.total_bytes == sum(report.parts.values())
    layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    copies = len(made.plan.windows) if tier == "C" else 1
    held = weights * model.source_dtype.itemsize if tier == "A" else copies * weights // 2
    assert report.parts["codes"] == held
    names = ("channel_scale", "rotations", "order")
    transforms = sum(b.nbytes for m in layers for n, b in m.state_dict().items() if n in names)
    assert report.parts["transforms"] == transforms
    forgetful = predict_size(
        model.transformer,
        model.sites,
        made.plan.sites,
        Transform(scale=True),
        dtype=model.source_dtype,
    )
    assert forgetful.total_bytes < report.total_bytes, "windows and rotations are not free"


def test_the_tiers_cost_what_they_say(tiny_dit):
    """Requantizing saves nothing; every window of codes costs as much as the first."""
    size = {
        (tier, windows): size_of(
            str(tiny_dit), "trdq", parse_bits("w4a8"), options={"tier": tier, "windows": windows}
        )
        for tier, windows in TIERS
    }
    assert size["A", 4].blocks_mib > 16 / 4 * size["B", 4].parts["codes"] / 2**20
    assert size["B", 4].total_bytes == size["C", 1].total_bytes
    assert size["C", 2].parts["codes"] == 2 * size["C", 1].parts["codes"]
    assert size["A", 4].parts["codes"] == size["A", 1].parts["codes"]


@pytest.mark.parametrize(
    "options",
    [{"tier": "A"}, {"tier": "B", "activations": "static"}, {"tier": "C", "windows": "step"}],
    ids=lambda o: o["tier"],
)
def test_every_tier_survives_the_round_trip(options, model, seen, sampler, tmp_path):
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "trdq", plan, {**FIXED, **options}, seen)
    assert made.plan.sampler == sampler.fingerprint
    report = save_checkpoint(made, model, tmp_path / "c")
    assert report == size_of(
        str(model.path), "trdq", parse_bits("w4a8"), options={**FIXED, **options}
    )
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    x = torch.randn(2, 4, 8, 8, generator=seeded(1))
    found = []
    for t in (*seen.timesteps, 999.0, 0.0):
        arguments = {
            "timestep": torch.tensor([t, t]),
            "class_labels": torch.tensor([0, 1000]),
        }
        with torch.no_grad():
            found.append(made.transformer(x, **arguments).sample)
            assert torch.equal(loaded(x, **arguments).sample, found[-1])


def test_windows_share_codes_and_have_ranges_of_their_own():
    made = Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "tier": "B", "activations": "static"})
    layer = made.layers["site0"]
    assert layer.act_scale.shape == (4, 1)
    assert layer.act_scale.unique().numel() == 4
    assert layer.codes.dim() == 2
    for k, steps in enumerate(made.group.steps):
        rows = layer.input_transform(made.calibrated[list(steps)].reshape(-1, CHANNELS))
        widest = float(rows.abs().max()) / 127
        assert 0.4 * widest <= float(layer.act_scale[k]) * (1 + 1e-5) <= widest * (1 + 1e-4)
    right = made.error()
    layer.act_scale = layer.act_scale.min().expand(4, 1) / 4
    assert made.error() > 2 * right


def test_a_plan_with_windows_keeps_its_own_and_their_formats():
    windows = (Window(low=500, high=HIGHEST), Window(low=LOWEST, high=500))
    plan = SitePlan(
        weight=Format(bits=4, symmetric=False), activations=(Format(bits=8), Format(bits=2))
    )
    made = Trial("trdq", plan, 0, FIXED, windows=windows)
    assert made.plan.windows == windows
    assert made.layers["site0"].codes.shape[0] == 2
    exact = made.fresh @ made.group.sites[0].weight.T
    lost = (made.output("site0", made.fresh) - exact).square().sum((1, 2))
    lost = lost / exact.square().sum((1, 2))
    assert float(lost[:3].max()) < 0.2 * float(lost[3:].min())


def test_the_best_alpha_on_the_rows_of_the_window_is_taken():
    found = Trial("trdq", synthetic.plan(4, 4), 0).notes["site0"]["windows"]
    fixed = Trial("trdq", synthetic.plan(4, 4), 0, {"alpha": 0.0}).notes["site0"]["windows"]
    assert {w["alpha"] for w in found} - {0.0}
    assert [w["alpha"] for w in fixed] == [0.0] * 4


def test_statistics_of_some_steps_are_those_of_a_calibration_of_these_steps():
    x = synthetic.activations(CHANNELS, 8, 4, 0)
    part, alone = synthetic.statistics(x).during((1, 3)), synthetic.statistics(x[[1, 3]])
    for name, value in vars(alone).items():
        if name not in ("surface", "surface_steps"):
            torch.testing.assert_close(getattr(part, name), value)
    assert part.surface_steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"block": 96}, "power of two"),
        ({"activations": "static"}, "tier=B"),
        ({"windows": 3}, "windows"),
        ({"windows": []}, "borders"),
        ({"windows": [4, 2]}, "rising"),
        ({"windows": [0, 2]}, "borders"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(options, said):
    with pytest.raises(BadInput, match=said) as caught:
        load_method("trdq").Options.parse(options, "options of trdq")
    assert "\n" not in str(caught.value)


def test_it_needs_a_calibration():
    with pytest.raises(BadInput, match="calibrate"):
        Trial("trdq", synthetic.plan(4, 8), 0, seen=False)


@pytest.mark.parametrize("windows", [1, 2])
def test_a_capture_shows_the_transform_of_every_window(windows):
    made = Trial("trdq", synthetic.plan(4, 8), 0, {**FIXED, "windows": windows})
    layer, (site,) = made.layers["site0"], made.group.sites
    assert [s.name for s in stages_of(layer)] == ["scaled", "rotated"]
    x = torch.randn(5, CHANNELS, generator=seeded())
    for window in range(windows):
        y, w = x, site.weight
        for stage in stages_of(layer):
            y, w = stage.of_input(y, window), stage.of_weight(w, window)
        assert torch.equal(y, layer.input_transform(x, window))
        own = layer.dequantized_weight(window)
        assert float((w - own).norm() / w.norm()) < 0.15, "what was rounded for this window"
        if window:
            first = layer.dequantized_weight(0)
            assert float((w - first).norm() / w.norm()) > 0.5


def test_casting_leaves_rotations_exact():
    made = Trial("trdq", synthetic.plan(4, 8), 0, FIXED)
    layer = made.layers["site0"]
    before = {n: b.clone() for n, b in layer.named_buffers() if n != "bias"}
    layer.half()
    assert all(torch.equal(layer.get_buffer(n), b) for n, b in before.items())


def test_the_checkpoint_describes_only_what_is_there():
    for transform in (
        Transform(),
        Transform(scale=True, block=64, per_window=True),
        Transform(scale=True, block=64, per_window=True, requantized=True),
    ):
        assert Transform.from_json(transform.to_json()) == transform
    assert Transform(scale=True).to_json() == {"scale": True, "rotate": False}


def test_static_ranges_and_a_transform_per_window_are_refused_together():
    static = Format(bits=8, granularity="tensor", static=True)
    plan = SitePlan(weight=Format(bits=4), activations=(static,))
    with pytest.raises(BadInput, match="share one transform") as caught:
        Trial("trdq", plan, 0, FIXED)
    assert "\n" not in str(caught.value)
    assert Trial("trdq", plan, 0, {**FIXED, "tier": "B"}).layers["site0"].act_scale.shape == (1, 1)
