"""Streamed statistics equal those of a brute-force pass, whatever the batches; resumed ones too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant import seen_layout as layout
from quant.calibration import calibrate, recorded_sites
from quant.clock import RecordingClock
from quant.errors import BadCheckpoint, BadInput, Cancelled
from quant.footprint import footprint, input_shapes
from quant.generation import generate
from quant.loading import load_model
from quant.recording import FIELDS, InputShape, InputStatistics, bin_of, counts_of, pooled
from quant.seen import Seen
from quant.seen_layout import BINS, HALF, CalibrationOptions
from quant.stages import weight_statistics

SEEDS = range(1000, 1004)


@pytest.fixture(scope="module")
def brute_force(model, sampler):
    """Every input kept raw: {input name: [steps, branches, samples, tokens, c]} over four samples."""
    raw: dict[str, list[torch.Tensor]] = {}
    handles = [
        model.transformer.get_submodule(site).register_forward_pre_hook(
            lambda _, args, key=key: raw.setdefault(key, []).append(
                args[0].reshape(2, len(SEEDS), -1, args[0].shape[-1])
            )
        )
        for key, site in recorded_sites(model).items()
    ]
    generate(model, model.samples(SEEDS), sampler)
    for handle in handles:
        handle.remove()
    return {key: torch.stack(calls) for key, calls in raw.items()}


def test_one_batch_equals_a_brute_force_pass(seen, brute_force):
    """Extremes, counts and surfaces exactly, sums to 1e-5."""
    assert set(seen.inputs) == set(brute_force)
    for key, raw in brute_force.items():
        got, x = seen.inputs[key], raw.flatten(2, 3)  # [S, B, rows, c]
        assert torch.equal(got.absmax, x.abs().amax(2))
        assert torch.equal(got.minimum, x.amin(2))
        assert torch.equal(got.maximum, x.amax(2))
        torch.testing.assert_close(got.mean, x.double().mean(2).float(), rtol=1e-5, atol=1e-6)
        moment = x.double().square().mean(2).float()
        torch.testing.assert_close(got.second_moment, moment, rtol=1e-5, atol=1e-7)
        mean_abs = x.double().abs().mean((2, 3)).float()
        torch.testing.assert_close(got.mean_abs, mean_abs, rtol=1e-5, atol=0)
        assert bool((got.count == x.shape[2]).all())
        cells = raw[:, 0, 0].abs().half()  # of one token, and of one or two channels
        cells = cells.unflatten(-1, (-1, max(1, x.shape[-1] // 128))).amax(-1)
        assert torch.equal(got.surface, cells)
        assert got.surface_steps.tolist() == list(range(len(raw)))


def test_batches_merge_to_the_same_statistics(model, sampler, brute_force):
    seen = calibrate(model, model.samples(SEEDS), sampler, batch_size=3)
    for key, raw in brute_force.items():
        got, x = seen.inputs[key], raw.flatten(2, 3)
        torch.testing.assert_close(got.absmax, x.abs().amax(2), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.mean, x.mean(2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.second_moment, x.square().mean(2), rtol=1e-4, atol=1e-5)
        assert bool((got.count == x.shape[2]).all())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_sampled_rows_do_not_depend_on_the_batches(model, sampler, seen, batch_size):
    options = CalibrationOptions(reservoir=256)
    other = calibrate(model, model.samples(SEEDS), sampler, options, batch_size=batch_size)
    for key, one in seen.inputs.items():
        two = other.inputs[key]
        for field in ("row_steps", "row_branches", "histogram_rows", "count", "surface_steps"):
            assert torch.equal(getattr(one, field), getattr(two, field)), field
        torch.testing.assert_close(one.rows, two.rows, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.row_absmax, two.row_absmax, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.moments, two.moments, rtol=1e-3, atol=1e-2)
        moved = (one.histogram - two.histogram).abs().sum() / one.histogram.sum()
        assert float(moved) < 1e-3, "rounding may move a value over an edge, no more"


def test_another_seed_looks_at_other_rows(model, sampler, seen):
    options = CalibrationOptions(reservoir=256, seed=1, rows=16)
    other = calibrate(model, model.samples(SEEDS[:1]), sampler, options)
    again = calibrate(model, model.samples(SEEDS[:1]), sampler, replace_seed(options))
    key = next(iter(seen.inputs))
    assert not torch.equal(other.inputs[key].rows, again.inputs[key].rows)


def replace_seed(options):
    return CalibrationOptions.model_validate({**options.to_json(), "seed": 2})


def test_calibration_repeats_and_leaves_no_hook(model, sampler, seen):
    again = calibrate(model, model.samples(SEEDS), sampler, CalibrationOptions(reservoir=256))
    for key, first in seen.inputs.items():
        for field in FIELDS:
            assert torch.equal(getattr(first, field), getattr(again.inputs[key], field)), field
    assert not any(m._forward_pre_hooks for m in model.transformer.modules())


def test_kept_rows_occurred_where_they_say(brute_force, seen):
    """Equally many per step and branch, each a row of that step and branch, spread over the samples."""
    for key, x in brute_force.items():
        got = seen.inputs[key]
        assert got.rows.shape == (256, x.shape[-1])
        strata = got.row_steps.long() * 2 + got.row_branches
        assert strata.bincount().tolist() == [256 // 8] * 8
        first = strata[:64]
        assert len(first.unique()) == 8, "any first part is spread over the steps"
        samples = set()
        for row, step, branch in list(zip(got.rows, got.row_steps, got.row_branches))[:60]:
            there = (x[int(step), int(branch)] == row).all(-1)  # [samples, tokens]
            assert bool(there.any())
            samples |= set(there.any(1).nonzero().flatten().tolist())
        assert len(samples) == 4


def test_moments_and_histograms_describe_the_sampled_rows(brute_force, seen):
    for key, x in brute_force.items():
        got = seen.inputs[key]
        tokens, channels = x.shape[3:]
        each = min(16, tokens)
        assert bool((got.histogram_rows == 4 * each).all())
        assert bool((got.histogram.sum(-1) == 4 * each * channels).all())
        if each == tokens:  # then the sample is everything
            flat = x.double().flatten(2)
            powers = torch.stack([flat.pow(p).sum(-1) for p in (1, 2, 3, 4)], -1)
            torch.testing.assert_close(got.moments, powers, rtol=1e-5, atol=1e-3)
            assert torch.equal(got.histogram[0, 0], counts_of(flat[0, 0].float()[None])[0].int())


def test_row_maxima_repeat_where_there_are_too_few_rows(model, sampler):
    options = CalibrationOptions(row_absmax=100)
    seen = calibrate(model, model.samples(range(1)), sampler, options)
    for statistics in seen.inputs.values():
        tokens = int(statistics.count[0, 0])
        maxima = statistics.row_absmax
        assert maxima.shape[-1] == 100
        assert torch.equal(maxima[..., tokens : 2 * tokens], maxima[..., :tokens])
        assert bool((maxima > 0).all())


# -- bins and surfaces


@given(st.floats(-5000, 5000, width=32))
def test_bins_lie_between_their_edges(value):
    index = int(bin_of(torch.tensor([value]))[0])
    low, high = layout.bin_edges()[index : index + 2]
    inside = np.clip(abs(value), 0, 2.0**12) * np.sign(value)
    assert low * (1 + 1e-6 * np.sign(-low)) <= inside <= high * (1 + 1e-6 * np.sign(high))


def test_histogram_bins_are_signed_and_logarithmic():
    x = torch.tensor([0.0, 1e-9, 1.0, -1.0, 1.18, 2.0, 1e9, -1e9, float("nan")])
    bins = bin_of(x).tolist()
    assert bins[0] == bins[1] == bins[8] == HALF
    assert bins[2] == bins[4]
    assert bins[2] + bins[3] == 2 * HALF, "mirror images"
    assert bins[5] == bins[2] + 4, "four bins an octave"
    assert (bins[6], bins[7]) == (BINS - 1, 0)


@given(st.integers(1, 300), st.integers(1, 300))
def test_surfaces_keep_the_largest_value_in_its_cell(tokens, channels):
    shape = InputShape(tokens, channels)
    x = torch.zeros(tokens, channels)
    x[-1, -1] = 7.0
    cells = pooled(x, shape)
    assert cells.shape == shape.surface
    assert max(cells.shape) <= 128
    assert float(cells[-1, -1]) == 7.0
    assert float(cells.sum()) == 7.0


# -- the disk


def test_statistics_survive_the_disk(seen, tmp_path):
    seen.save(tmp_path / "seen.safetensors")
    again = Seen.load(tmp_path / "seen.safetensors")
    assert (again.manifest, again.timesteps) == (seen.manifest, seen.timesteps)
    assert [dict(e) for e in again.entries] == [dict(e) for e in seen.entries]
    for key, statistics in seen.inputs.items():
        for field in FIELDS:
            assert torch.equal(getattr(again.inputs[key], field), getattr(statistics, field)), field
    data = (tmp_path / "seen.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    with pytest.raises(BadCheckpoint, match="truncated"):
        Seen.load(tmp_path / "cut.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.safetensors", "seen.safetensors"]


def test_a_file_of_an_earlier_format_says_so(tmp_path):
    from safetensors.torch import save_file

    save_file({"x/rows": torch.zeros(1)}, tmp_path / "old.safetensors", metadata={"manifest": "{}"})
    with pytest.raises(BadCheckpoint, match="capture again"):
        Seen.load(tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    "options",
    [
        CalibrationOptions(),
        CalibrationOptions(reservoir=3, surface_mib=0, row_absmax=5),
        CalibrationOptions(reservoir=2000, rows=40),
    ],
)
def test_the_predicted_bytes_bound_the_file_closely(model, sampler, tmp_path, options):
    shapes = input_shapes(model, model.samples(range(1))[0], sampler)
    bound = footprint(model, sampler, options, shapes)
    seen = calibrate(model, model.samples(SEEDS), sampler, options)
    seen = replace(seen, weights=weight_statistics(model.transformer, model.sites))
    seen.save(tmp_path / "seen.safetensors")
    size = (tmp_path / "seen.safetensors").stat().st_size
    assert size <= bound.file_bytes
    few = options.reservoir == 2000  # more rows than four samples have
    assert few or bound.file_bytes - size < 0.02 * size + 20_000
    if options.surface_mib == 0:
        assert {len(s.surface_steps) for s in seen.inputs.values()} == {1}
    if options.reservoir == 3:
        assert {len(s.rows) for s in seen.inputs.values()} == {3}


def test_memory_does_not_grow_with_the_samples(model, sampler):
    shapes = input_shapes(model, model.samples(range(1))[0], sampler)
    bounds = {
        footprint(model, sampler, CalibrationOptions(), shapes).memory_bytes for _ in range(2)
    }
    assert len(bounds) == 1
    more = footprint(model, model.sampler(steps=8), CalibrationOptions(), shapes)
    assert more.memory_bytes > bounds.pop()


# -- stopped, wrong, and timed


def test_a_stopped_pass_goes_on_from_its_checkpoint(model, sampler, seen, tmp_path):
    samples, options = model.samples(SEEDS), CalibrationOptions(reservoir=256)
    whole = calibrate(model, samples, sampler, options, batch_size=1)
    stop_at = iter([1, 6, 9])
    taken: list[int] = []

    def attempt(limit):
        steps = 0

        def on_step(_):
            nonlocal steps
            steps += 1
            if steps == limit:
                raise Cancelled("enough")

        return calibrate(
            model,
            samples,
            sampler,
            options,
            batch_size=1,
            on_step=on_step,
            checkpoint=tmp_path / "unfinished",
            on_resume=taken.append,
        )

    for limit in stop_at:
        with pytest.raises(Cancelled):
            attempt(limit)
    resumed = attempt(None)
    assert taken, "something was taken over"
    assert taken == sorted(taken)
    for key, statistics in whole.inputs.items():
        for field in FIELDS:
            assert torch.equal(getattr(statistics, field), getattr(resumed.inputs[key], field)), (
                field
            )
    other = calibrate(
        model,
        samples[:2],
        sampler,
        options,
        checkpoint=tmp_path / "unfinished",
        on_resume=taken.append,
    )
    assert int(next(iter(other.inputs.values())).count[0, 0]) < int(
        next(iter(seen.inputs.values())).count[0, 0]
    ), "a checkpoint of other samples is not taken"


def test_a_damaged_checkpoint_counts_as_none(model, sampler, tmp_path):
    (tmp_path / "unfinished").write_bytes(b"not a file of ours")
    seen = calibrate(
        model, model.samples(range(2)), sampler, batch_size=1, checkpoint=tmp_path / "unfinished"
    )
    assert int(seen.inputs[next(iter(seen.inputs))].histogram_rows[0, 0]) == 32


def test_an_input_that_is_not_finite_is_one_clear_error(model, sampler):
    layer = model.transformer.get_submodule("transformer_blocks.1.ff.net.2")
    calls = 0

    def spoil(_, args):
        nonlocal calls
        calls += 1
        if calls == 3 + 1:  # one call finds out the shapes
            return (args[0].clone().index_fill_(-1, torch.tensor([3]), float("nan")),)
        return None

    handle = layer.register_forward_pre_hook(spoil)
    try:
        with pytest.raises(BadInput, match=r"transformer_blocks\.1\.ff\.net\.2 .* at step 2"):
            calibrate(model, model.samples(range(2)), sampler)
    finally:
        handle.remove()
    assert not layer._forward_pre_hooks


def test_the_clock_tells_recording_from_drawing(model, sampler):
    clock = RecordingClock()
    assert clock.overhead_ratio is None
    calibrate(model, model.samples(range(2)), sampler, clock=clock)
    assert clock.total > 0
    assert clock.overhead_ratio is not None
    assert clock.overhead_ratio > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_records_the_same_rows(tiny_dit, sampler, seen):
    on_gpu = load_model(str(tiny_dit), device="cuda", dtype="float32")
    clock = RecordingClock()
    options = CalibrationOptions(reservoir=256)
    other = calibrate(on_gpu, on_gpu.samples(SEEDS), sampler, options, clock=clock)
    assert clock.overhead_ratio is not None
    for key, one in seen.inputs.items():
        two = other.inputs[key]
        assert torch.equal(one.row_steps, two.row_steps)
        torch.testing.assert_close(one.absmax, two.absmax, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(one.rows, two.rows, rtol=1e-2, atol=1e-2)
        assert torch.equal(one.histogram.sum(-1), two.histogram.sum(-1))


def test_one_branch_without_guidance(model):
    seen = calibrate(model, model.samples(range(2)), model.sampler(guidance=1.0))
    assert {s.count.shape[1] for s in seen.inputs.values()} == {1}


def test_seen_without_a_summary_of_a_stage_is_all_nan(seen, tmp_path):
    """An input that a method does not transform has no number there, rather than a wrong one."""
    key = next(iter(seen.inputs))
    copied = InputStatistics(**{f: getattr(seen.inputs[key], f).clone() for f in FIELDS})
    partly = replace(seen, stages={"rotated": {key: copied}})
    partly.save(tmp_path / "seen.safetensors")
    from dqviz.seen_file import SeenFile

    found = SeenFile(tmp_path / "seen.safetensors").summary("absmax", "rotated")
    assert not np.isnan(found[0]).any()
    assert np.isnan(found[1:]).all()
