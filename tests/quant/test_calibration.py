"""Streamed statistics equal those of a brute-force pass."""

from __future__ import annotations

import pytest
import torch

from quant.calibration import CalibrationOptions, Seen, calibrate
from quant.errors import BadCheckpoint
from quant.generation import generate
from quant.recording import bin_of
from quant.seen_layout import BINS, HALF


@pytest.fixture(scope="module")
def brute_force(model, sampler):
    """Every input kept raw: {input name: [steps, branches, rows, c]} over four samples."""
    raw: dict[str, list[torch.Tensor]] = {}
    first = {s.input_of: s.name for s in reversed(model.sites) if s.kept_reason is None}
    handles = [
        model.transformer.get_submodule(name).register_forward_pre_hook(
            lambda _, args, key=key: raw.setdefault(key, []).append(
                args[0].reshape(2, -1, args[0].shape[-1])
            )
        )
        for key, name in first.items()
    ]
    generate(model, model.samples(range(1000, 1004)), sampler)
    for handle in handles:
        handle.remove()
    return {key: torch.stack(calls) for key, calls in raw.items()}


def test_statistics_equal_a_brute_force_pass(model, sampler, brute_force):
    """Two batches must merge to what one pass over everything gives."""
    seen = calibrate(model, model.samples(range(1000, 1004)), sampler, batch_size=3)
    assert set(seen.inputs) == set(brute_force)
    for key, x in brute_force.items():
        got = seen.inputs[key]
        torch.testing.assert_close(got.absmax, x.abs().amax(2), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.minimum, x.amin(2), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.mean, x.mean(2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.second_moment, x.square().mean(2), rtol=1e-4, atol=1e-5)
        assert bool((got.count == x.shape[2]).all())


def test_calibration_repeats_and_leaves_no_hook(model, sampler, seen):
    again = calibrate(
        model, model.samples(range(1000, 1004)), sampler, CalibrationOptions(reservoir=256)
    )
    for key, first in seen.inputs.items():
        assert torch.equal(first.rows, again.inputs[key].rows)
        assert torch.equal(first.histogram, again.inputs[key].histogram)
    assert not any(m._forward_pre_hooks for m in model.transformer.modules())


def test_kept_rows_are_rows_that_occurred_at_all_steps(brute_force, seen):
    for key, x in brute_force.items():
        rows = seen.inputs[key].rows
        assert rows.shape == (256, x.shape[-1])
        distance = torch.cdist(rows[:40].double(), x.reshape(-1, x.shape[-1]).double())
        nearest = distance.argmin(1) // (x.shape[1] * x.shape[2])
        assert float(distance.amin(1).max()) < 1e-4
        assert nearest.unique().numel() == x.shape[0], "every step is represented"


def test_histogram_bins_are_signed_and_logarithmic():
    x = torch.tensor([0.0, 1e-9, 1.0, -1.0, 1.18, 2.0, 1e9, -1e9])
    bins = bin_of(x).tolist()
    assert bins[0] == bins[1] == HALF
    assert bins[2] == bins[4]
    assert bins[2] + bins[3] == 2 * HALF, "mirror images"
    assert bins[5] == bins[2] + 4, "four bins an octave"
    assert (bins[6], bins[7]) == (BINS - 1, 0)


def test_histograms_count_every_sampled_element(seen):
    for statistics in seen.inputs.values():
        counted = statistics.histogram.sum(-1)
        assert bool((counted == counted[0, 0]).all())
        assert int(counted[0, 0]) >= 16 * statistics.rows.shape[1]


def test_statistics_survive_the_disk(seen, tmp_path):
    seen.save(tmp_path / "seen.safetensors")
    again = Seen.load(tmp_path / "seen.safetensors")
    assert again.manifest == seen.manifest
    assert again.timesteps == seen.timesteps
    key = next(iter(seen.inputs))
    assert torch.equal(again.inputs[key].maximum, seen.inputs[key].maximum)
    data = (tmp_path / "seen.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    with pytest.raises(BadCheckpoint, match="truncated"):
        Seen.load(tmp_path / "cut.safetensors")
